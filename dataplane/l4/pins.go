package l4

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pins is the directory duomesh/abi-N of a BPF file system. It is locked as
// long as it is open: bpffs has no regular files to lock, but flock(2) takes a
// directory, and only root can open this one.
type pins struct {
	root string // BPFFS/duomesh
	dir  string // root/abi-N
	lock *os.File
	// fresh is set when nothing was there to take over.
	fresh bool
	// locked is set when this process has the lock.
	locked bool
}

func openPins(bpffs string) (_ *pins, err error) {
	if err := isBPFFS(bpffs); err != nil {
		return nil, err
	}
	dir := Pins(bpffs)
	p := &pins{root: filepath.Dir(dir), dir: dir}
	if err := os.Mkdir(p.root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make directory of pins: %w", err)
	}
	if p.lock, err = os.Open(p.root); err != nil {
		return nil, fmt.Errorf("open directory of pins: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	err = unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, PinError{Path: p.root, Reason: "another engine uses it", Busy: true}
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory of pins %s: %w", p.root, err)
	}
	p.locked = true
	if err := p.onlyOurABI(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make directory of pins: %w", err)
	}
	return p, nil
}

// Pins is the directory that holds this build's pins below a BPF file system:
// duomesh/abi-N, N the layout of the maps.
func Pins(bpffs string) string { return filepath.Join(bpffs, "duomesh", abiDir) }

var abiDir = fmt.Sprintf("abi-%d", meshMeshAbiMESH_ABI)

func isBPFFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("BPF file system %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not in a BPF file system: mount one with `mount -t bpf none DIR`", dir)
	}
	return nil
}

// onlyOurABI refuses state whose layout this build does not know.
func (p *pins) onlyOurABI() error {
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return fmt.Errorf("read directory of pins: %w", err)
	}
	for _, e := range entries {
		if e.Name() != abiDir {
			return PinError{
				Path:   filepath.Join(p.root, e.Name()),
				Reason: "it is not of " + abiDir + ", the layout of this build; it is left working",
			}
		}
	}
	return nil
}

// served is the link of a waypoint pod, by the cookie of its netns.
func (p *pins) served(cookie uint64) string {
	return filepath.Join(p.dir, servedPrefix+strconv.FormatUint(cookie, 10))
}

const servedPrefix = "served_"

// servedCookies lists the waypoint pods that have a link.
func (p *pins) servedCookies() ([]uint64, error) {
	paths, err := filepath.Glob(p.served(0)[:len(p.served(0))-1] + "*")
	if err != nil {
		return nil, fmt.Errorf("list pins of waypoints: %w", err)
	}
	var all []uint64
	for _, path := range paths {
		cookie, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(path), servedPrefix), 10, 64)
		if err != nil {
			return nil, PinError{Path: path, Reason: "it is no pin of a waypoint"}
		}
		all = append(all, cookie)
	}
	return all, nil
}

func (p *pins) link(program string) string { return filepath.Join(p.dir, "link_"+program) }

// prepare asks for spec's maps to be pinned, and settles what to do with what
// is there: all maps are taken over; maps that serve no link are the rest of an
// Open that failed, and removed; links that lack a map cannot be taken over.
func (p *pins) prepare(spec *ebpf.CollectionSpec) error {
	var missing, present []string
	for name, m := range spec.Maps {
		if ofOneLoad(name) {
			continue
		}
		m.Pinning = ebpf.PinByName
		if exists(filepath.Join(p.dir, name)) {
			present = append(present, name)
		} else {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return p.compatible(spec)
	}
	for _, prog := range programs {
		if exists(p.link(prog.name)) {
			return PinError{Path: p.dir, Reason: fmt.Sprintf("link of %s is there, map %s is not",
				prog.name, strings.Join(missing, ", "))}
		}
	}
	p.fresh = true // only now: what is fresh is removed when Open fails
	return p.unpin(present)
}

// compatible refuses maps of other sizes by name; the library would as well,
// but without the way out.
func (p *pins) compatible(spec *ebpf.CollectionSpec) error {
	for name, want := range spec.Maps {
		if want.Pinning != ebpf.PinByName {
			continue
		}
		if err := p.sameSize(name, want.MaxEntries); err != nil {
			return err
		}
	}
	return nil
}

// sameSize refuses a pinned map of another size. There need not be one.
func (p *pins) sameSize(name string, want uint32) error {
	path := filepath.Join(p.dir, name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return PinError{Path: path, Reason: err.Error()}
	}
	defer m.Close()
	if have := m.MaxEntries(); have != want {
		return PinError{Path: path, Reason: fmt.Sprintf("it has %d entries, the limits ask for %d: keep the limit", have, want)}
	}
	return nil
}

// ofOneLoad is true for the maps of a program's constants.
func ofOneLoad(mapName string) bool { return strings.HasPrefix(mapName, ".") }

func (p *pins) unpin(names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			return fmt.Errorf("remove pin: %w", err)
		}
	}
	return nil
}

// remove deletes all pins and both directories. Links are unpinned before.
func (p *pins) remove() error {
	p.locked = false // what is there afterwards is somebody else's
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("read directory of pins: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err := p.unpin(names); err != nil {
		return err
	}
	for _, dir := range []string{p.dir, p.root} {
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("remove directory of pins: %w", err)
		}
	}
	return nil
}

// Close gives the lock back. Directories in which nothing is pinned go: to the next
// process they would look like something that an engine has left.
func (p *pins) Close() error {
	if p.locked {
		os.Remove(p.dir) // fails where something is pinned
		os.Remove(p.root)
		p.locked = false
	}
	return p.lock.Close()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
