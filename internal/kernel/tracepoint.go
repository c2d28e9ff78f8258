package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// AttachTracepoint runs prog at a tracepoint of a group, on all CPUs and in all
// processes, until the closer is closed. No tracefs need be mounted.
func AttachTracepoint(group, name string, prog *ebpf.Program) (io.Closer, error) {
	id, err := tracepointID(group, name)
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Size: unix.PERF_ATTR_SIZE_VER0,
		Sample: 1, Wakeup: 1,
	}
	// A program at a tracepoint runs wherever it is hit: the event's CPU does
	// not matter.
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open perf event of tracepoint %s/%s: %w", group, name, err)
	}
	defer unix.Close(fd) // the link holds it
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: prog, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		return nil, fmt.Errorf("attach to tracepoint %s/%s: %w", group, name, err)
	}
	return l, nil
}

// tracepointID reads the number of a tracepoint from an instance of tracefs that
// is mounted nowhere and goes away with its descriptor.
func tracepointID(group, name string) (uint64, error) {
	path := "events/" + group + "/" + name + "/id"
	f, err := OpenTracefs(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, fmt.Errorf("read tracefs file %s: %w", path, err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read tracefs file %s: %w", path, err)
	}
	return id, nil
}

// OpenTracefs opens a file of tracefs, which need not be mounted. The caller closes
// it.
func OpenTracefs(path string) (*os.File, error) {
	root, err := detachedTracefs()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tracefs file %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// detachedTracefs returns a descriptor of tracefs' root (fsopen(2), Linux 5.2).
// The caller closes it.
func detachedTracefs() (int, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	if err != nil {
		return -1, fmt.Errorf("open tracefs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("open tracefs: %w", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open tracefs: %w", err)
	}
	return root, nil
}
