package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// played is an older kernel, as far as bpf(2) and getsockopt(2) tell: the first command, type of map, hook
// and helper that it does not know, and what it answers then. noCookies is one that does not
// know SO_NETNS_COOKIE either.
type played struct {
	answer                         unix.Errno
	commands, maps, hooks, helpers uint32
	noCookies                      bool
}

// notice and verdict are struct seccomp_notif and struct seccomp_notif_resp of
// linux/seccomp.h.
type notice struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	at         uint64
	args       [6]uint64
}

type verdict struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// play has this process's kernel answer bpf(2) and getsockopt(2) as k does, as long as the process lasts. A
// filter of system calls cannot read what their arguments point to; this process can.
func (k played) play() error {
	const number, level, option = 0, 24, 32 // their offsets in struct seccomp_data: the call, and two of its arguments
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number}}
	if k.noCookies {
		program = append(program, []unix.SockFilter{
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_GETSOCKOPT, Jf: 5},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: level},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SOL_SOCKET, Jf: 5},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: option},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SO_NETNS_COOKIE, Jf: 3},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOPROTOOPT)},
		}...)
	}
	program = append(program, []unix.SockFilter{
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}...)
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("play an older kernel: %w", errno)
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("play an older kernel: %w", err)
	}
	go func() {
		runtime.LockOSThread() // it waits most of the time
		if err := k.answerAll(fd, memory); err != nil {
			fmt.Fprintln(os.Stderr, "play an older kernel:", err)
			os.Exit(exitUsage)
		}
	}()
	return nil
}

func (k played) answerAll(fd uintptr, memory *os.File) error {
	for {
		n := notice{}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
		if errno == unix.EINTR || errno == unix.ENOENT {
			continue // who has called is gone
		}
		if errno != 0 {
			return fmt.Errorf("receive: %w", errno)
		}
		v := verdict{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		known, err := k.knows(uint32(n.args[0]), memory, int64(n.args[1]))
		if err != nil {
			return err
		}
		if !known {
			v.flags, v.errno = 0, -int32(k.answer)
		}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&v)))
		if errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("answer: %w", errno)
		}
	}
}

// longestTrial is how many instructions a program has at most that tries a helper. Of longer
// ones it is not played which helpers they may call: a verifier passes over calls that are
// behind a switch which is off, as those of younger kernels are.
const longestTrial = 8

// knows reports whether k knows all that a command of bpf(2) asks for. The offsets are of
// union bpf_attr.
func (k played) knows(command uint32, memory *os.File, attr int64) (bool, error) {
	var err error
	word := func(at int64) uint32 {
		var b [4]byte
		_, failed := memory.ReadAt(b[:], at)
		err = errors.Join(err, failed)
		return binary.NativeEndian.Uint32(b[:])
	}
	address := func(at int64) int64 { return int64(word(at)) | int64(word(at+4))<<32 }
	known := command < k.commands
	switch {
	case !known:
	case command == unix.BPF_MAP_CREATE:
		known = word(attr) < k.maps // map_type
	case command == unix.BPF_PROG_LOAD:
		known = word(attr+68) < k.hooks // expected_attach_type
		if word(attr+4) > longestTrial {
			break
		}
		instructions := address(attr + 8)
		for i := range int64(word(attr + 4)) {
			at := instructions + 8*i
			// A call of a helper: opcode 0x85, source register 0.
			op, helper := word(at), word(at+4)
			if op&0xff != 0x85 || op>>12&0xf != 0 || helper < k.helpers {
				continue
			}
			known = false
			if word(attr+24) > 0 { // log_level: a verifier says why in log_buf
				text := fmt.Appendf(nil, "invalid func unknown#%d\n\x00", helper)
				_, failed := memory.WriteAt(text[:min(len(text), int(word(attr+28)))], address(attr+32))
				err = errors.Join(err, failed)
			}
			break
		}
	}
	return known, err
}
