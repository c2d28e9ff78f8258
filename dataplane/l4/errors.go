package l4

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// CapacityError says that a Snapshot does not fit. Nothing was written.
type CapacityError struct {
	// Map is the map's name, as in Usage.
	Map string
	// Need is the number of entries at the moment of the change, when old and
	// new ones are both there; Have is the limit.
	Need, Have uint32
	// InRow is set when there are entries enough, but not in a row: Have is the
	// longest. An Engine that is opened anew without pins has them all in a row.
	InRow bool
}

// Error implements error.
func (c CapacityError) Error() string {
	if c.InRow {
		return fmt.Sprintf("map %s: %d entries in a row are needed, %d are free in a row", c.Map, c.Need, c.Have)
	}
	return fmt.Sprintf("map %s: %d entries are needed, the limit is %d", c.Map, c.Need, c.Have)
}

// PartialError says that the kernel refused something in the middle of Apply. The node
// holds a mix of old and new services, none half-written, until Apply succeeds.
type PartialError struct{ Err error }

// Error implements error.
func (p PartialError) Error() string { return "the kernel refused it in the middle: " + p.Err.Error() }

// Unwrap returns the cause.
func (p PartialError) Unwrap() error { return p.Err }

// PinError says why the state that is pinned below a directory cannot be taken
// over. That state was left as it was.
type PinError struct {
	Path   string
	Reason string
	// Busy is set when another process uses it; else nobody can, and RemovePins of
	// package dataplane is the way out.
	Busy bool
}

// Error implements error.
func (p PinError) Error() string { return "pinned state " + p.Path + ": " + p.Reason }

// errNotPermitted replaces the library's guess that RLIMIT_MEMLOCK is too low.
var errNotPermitted = errors.New("the kernel does not permit it: CAP_BPF and CAP_NET_ADMIN are needed")

// explain puts the plain reason before an error of a BPF call.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (%w)", errNotPermitted, unix.EPERM)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("this kernel has no bpf system call: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel is too old or built without it: %w", err)
	}
	return err
}
