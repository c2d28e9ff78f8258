package l4

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// KernelError is Open's where the kernel lacks what the engine cannot do without:
// another try on it makes no sense.
type KernelError struct {
	// Release is the kernel's own, as uname -r says it.
	Release string
	// Lacks is the feature, and Since the release of Linux that has it; either may be
	// empty where it is not known.
	Lacks, Since string
	Err          error
}

// Error implements error.
func (k KernelError) Error() string {
	words := fmt.Sprintf("Linux %s cannot carry the engine", k.Release)
	if k.Lacks != "" {
		words += ": it has no " + k.Lacks
	}
	if k.Since != "" {
		words += ", which Linux has since " + k.Since
	}
	return words + ": " + k.Err.Error()
}

// Unwrap returns the cause.
func (k KernelError) Unwrap() error { return k.Err }

// needed are the features without which the engine does not open, the oldest first: one
// that is missing is the reason why a younger one is.
func needed(o Options) []kernel.Feature {
	all := []kernel.Feature{kernel.BPF, kernel.CgroupConnect, kernel.CgroupSendmsg, kernel.CgroupRecvmsg}
	if !o.HidePeer {
		all = append(all, kernel.CgroupGetpeername, kernel.CgroupSockRelease)
	}
	return append(all, kernel.NetnsCookies)
}

// unsupportedKernel makes a KernelError of what says that the kernel has no such thing, and
// of what it refuses without a reason where a needed feature is missing. Any other error
// stays as it is.
func unsupportedKernel(err error, needs []kernel.Feature) error {
	if !lacking(err) && !refused(err) {
		return err
	}
	k := KernelError{Err: err}
	for _, f := range needs {
		if lacking(f.Probe()) {
			k.Lacks, k.Since = f.Name, f.Since
			break
		}
	}
	if k.Lacks == "" && !lacking(err) {
		return err
	}
	var name unix.Utsname
	if uname := unix.Uname(&name); uname != nil {
		return errors.Join(err, fmt.Errorf("read kernel release: %w", uname))
	}
	k.Release = unix.ByteSliceToString(name.Release[:])
	return k
}

// lacking errors say that the kernel has no such thing.
func lacking(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOSYS)
}

// refused errors may say it: EINVAL is a kernel's word for a type of map, a helper or a hook
// that it does not know, and that of a verifier which is too old for a program, as EACCES
// (a field of the context) and E2BIG (its length) are.
func refused(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG)
}
