package kernel

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetns runs f on a thread inside the network namespace ns. The thread dies
// with the call: f may not start goroutines that rely on ns, and a child that f
// starts must not use Pdeathsig, which follows the thread and not the process.
// ns stays the caller's.
func InNetns(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
			return
		}
		done <- f()
	}()
	return <-done
}

// NewNetns makes an empty network namespace that lives as long as the returned
// descriptor, or a process or mount that refers to it. The caller closes it.
func NewNetns() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("make network namespace: %w", err)}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		done <- result{ns: ns, err: err}
	}()
	r := <-done
	return r.ns, r.err
}

// NetnsCookie returns the number by which BPF programs know the network
// namespace ns: SO_NETNS_COOKIE (Linux 5.14) of a socket opened inside it.
func NetnsCookie(ns *os.File) (uint64, error) {
	var cookie uint64
	err := InNetns(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket in network namespace %s: %w", ns.Name(), err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil {
			return fmt.Errorf("read SO_NETNS_COOKIE: %w", err)
		}
		return nil
	})
	return cookie, err
}
