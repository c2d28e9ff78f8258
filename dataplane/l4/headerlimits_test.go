package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// zerocopyIDs sends by MSG_ZEROCOPY and returns the numbers of the completions that
// the kernel announces: one for each send that began, from 0 on
// (Documentation/networking/msg_zerocopy.rst).
func zerocopyIDs(to netip.AddrPort, sends int) (first, last uint32, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return 0, 0, err
	}
	if err := unix.Connect(fd, sockaddr(unix.AF_INET, to)); err != nil {
		return 0, 0, err
	}
	b := make([]byte, 64<<10)
	for range sends {
		if err := sendAll(fd, b, unix.MSG_ZEROCOPY); err != nil {
			return 0, 0, err
		}
	}
	first, seen := uint32(1<<32-1), 0
	for quiet := 0; quiet < 2; { // none for a while, after the other end has it all
		oob := make([]byte, 256)
		_, n, _, _, err := unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE)
		if errors.Is(err, unix.EAGAIN) {
			quiet++
			unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 300)
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return 0, 0, err
		}
		for _, m := range messages {
			// struct sock_extended_err: errno, origin, …, info (low), data (high).
			if len(m.Data) >= 16 && m.Data[4] == 5 { // SO_EE_ORIGIN_ZEROCOPY
				first, last = min(first, binary.NativeEndian.Uint32(m.Data[8:])), max(last, binary.NativeEndian.Uint32(m.Data[12:]))
				seen++
			}
		}
	}
	if seen == 0 {
		return 0, 0, fmt.Errorf("no completion: %w", unix.ETIMEDOUT)
	}
	return first, last, nil
}

// The kernel announces more completions of a first send by MSG_ZEROCOPY than there are
// sends, never fewer: docs/KNOWN_ISSUES.md. The bytes are right.
func TestCompletionsOfZerocopy(t *testing.T) {
	const sends = 3
	h := newHeaded(t, intent.ProxyV2, Options{})
	for name, to := range map[string]netip.AddrPort{
		"without a header": netip.AddrPortFrom(h.way.v4, h.codec.Port()), "with one": h.asked4[0],
	} {
		a := h.from.do(t, call{Op: "zerocopy", To: to, N: sends})
		if a.Errno != 0 || a.FD != 0 || a.Took < sends-1 || name == "without a header" && a.Took != sends-1 {
			t.Errorf("%s: completions %d to %d of %d sends, %v", name, a.FD, a.Took, sends, a.Errno)
		}
		t.Logf("%s: completions %d to %d of %d sends", name, a.FD, a.Took, sends)
	}
}

// readFirst has a thread wait in read() before anything is sent, then sends and says that
// this was all. It returns what the read said.
func readFirst(to netip.AddrPort, size int) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(unix.AF_INET, to)); err != nil {
		return "", err
	}
	type said struct {
		line string
		err  error
	}
	thread, answer := make(chan int, 1), make(chan said, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		line, err := readLine(fd)
		answer <- said{line, err}
	}()
	path := fmt.Sprintf("/proc/self/task/%d/syscall", <-thread)
	if err := eventually(func() error { // it waits in read()
		data, err := os.ReadFile(path)
		if err == nil && !strings.HasPrefix(string(data), fmt.Sprintf("%d 0x%x ", unix.SYS_READ, fd)) {
			err = fmt.Errorf("the thread is in %q", data)
		}
		return err
	}); err != nil {
		return "", err
	}
	if err := write(fd, make([]byte, size)); err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return "", err
	}
	a := <-answer
	return a.line, a.err
}

// A read that waits before anything is sent began while the socket was in unsent, and
// gives up where it is woken without data: docs/KNOWN_ISSUES.md. What is told is right
// all the same.
func TestReadsThatBeganBefore(t *testing.T) {
	const each = 20
	h := newHeaded(t, intent.ProxyV2, Options{})
	for name, to := range map[string]netip.AddrPort{
		"without a header": netip.AddrPortFrom(h.way.v4, h.codec.Port()), "with one": h.asked4[0],
	} {
		for _, size := range []int{100, 4 << 20} {
			again := 0
			for range each {
				switch a := h.from.do(t, call{Op: "read first", To: to, N: size}); {
				case a.Errno == unix.EAGAIN && name == "with one":
					again++
				case a.Errno != 0, strings.HasPrefix(a.Line, "none:") == (name == "with one"):
					t.Errorf("%s: %q, %v", name, a.Line, a.Errno)
				}
			}
			t.Logf("%s, %d bytes: %d of %d reads gave up", name, size, again, each)
		}
	}
}
