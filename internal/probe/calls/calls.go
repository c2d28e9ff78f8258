// Package calls counts the system calls of cgroups from outside, by a program at
// the kernel's raw_syscalls:sys_exit. One counter is open for a whole pass: it
// costs every system call of the machine some time, so nothing is timed meanwhile.
package calls

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" calls ../../../bpf/calls/calls.bpf.c -- -I../../../bpf/include

// names are the system calls by which a program uses its sockets.
var names = map[int64]string{
	unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_READV: "readv", unix.SYS_WRITEV: "writev",
	unix.SYS_SENDTO: "sendto", unix.SYS_RECVFROM: "recvfrom", unix.SYS_SENDMSG: "sendmsg",
	unix.SYS_RECVMSG: "recvmsg", unix.SYS_SENDFILE: "sendfile", unix.SYS_SPLICE: "splice",
	unix.SYS_SOCKET: "socket", unix.SYS_CONNECT: "connect", unix.SYS_ACCEPT4: "accept4",
	unix.SYS_CLOSE: "close", unix.SYS_SHUTDOWN: "shutdown", unix.SYS_BIND: "bind",
	unix.SYS_GETPEERNAME: "getpeername", unix.SYS_GETSOCKNAME: "getsockname",
	unix.SYS_GETSOCKOPT: "getsockopt", unix.SYS_SETSOCKOPT: "setsockopt",
}

// Counts are the system calls on sockets and files that returned anything but
// EAGAIN, by name.
type Counts map[string]uint64

// Total is their sum.
func (c Counts) Total() uint64 {
	var sum uint64
	for _, n := range c {
		sum += n
	}
	return sum
}

// Counter counts until it is closed.
type Counter struct {
	objects callsObjects
	link    io.Closer
}

// Open counts from now on what the processes in the cgroups call, not those in
// cgroups below. A process must be in its cgroup when it calls. The descriptors
// may be closed then. [kernel.Missing] knows the error of a kernel that has no such
// tracepoint. The caller closes the Counter.
func Open(cgroups ...*os.File) (_ *Counter, err error) {
	c := &Counter{}
	if err := loadCallsObjects(&c.objects, nil); err != nil {
		return nil, fmt.Errorf("load the counter of system calls: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, dir := range cgroups {
		var st unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return nil, fmt.Errorf("id of cgroup %s: %w", dir.Name(), err)
		}
		if err := c.objects.Cgroups.Put(st.Ino, uint8(1)); err != nil {
			return nil, fmt.Errorf("count system calls of cgroup %s: %w", dir.Name(), err)
		}
	}
	c.link, err = kernel.AttachTracepoint("raw_syscalls", "sys_exit", c.objects.OnExit)
	return c, err
}

// Counts is what all cgroups together have called up to now.
func (c *Counter) Counts() (Counts, error) {
	var (
		key  callsCallKey
		n    uint64
		sums = Counts{}
	)
	calls := c.objects.Calls.Iterate()
	for calls.Next(&key, &n) {
		if name, ok := names[key.Number]; ok {
			sums[name] += n
		}
	}
	if err := calls.Err(); err != nil {
		return nil, fmt.Errorf("read the counts of system calls: %w", err)
	}
	return sums, nil
}

// Close detaches the counter.
func (c *Counter) Close() error {
	var err error
	if c.link != nil {
		err = c.link.Close()
		c.link = nil
	}
	return errors.Join(err, c.objects.Close())
}
