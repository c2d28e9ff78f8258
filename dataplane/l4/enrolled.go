package l4

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// ErrNotEnrolled says that the kernel has no entry for a pod.
var ErrNotEnrolled = errors.New("the kernel has no entry for its network namespace")

// Confirm asks the kernel whether a pod is managed: its entry is there and the
// programs run for its cgroup. It changes nothing; ErrNotEnrolled is in the chain
// when the entry is missing.
func (e *Engine) Confirm(p Pod) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.confirm(p); err != nil {
		return fmt.Errorf("confirm pod %s: %w", p.Name, err)
	}
	return nil
}

func (e *Engine) confirm(p Pod) error {
	if p.Netns == nil || p.Cgroup == nil {
		return errors.New("network namespace and cgroup are both needed")
	}
	cookie, err := kernel.NetnsCookie(p.Netns)
	if err != nil {
		return err
	}
	var flags uint32
	err = e.managed.m.Lookup(cookie, &flags)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return ErrNotEnrolled
	}
	if err != nil {
		return fmt.Errorf("read map %s: %w", e.managed.name, err)
	}
	return e.effective(p)
}

// ErrNotServed says that the kernel serves no hand-off in a network namespace.
var ErrNotServed = errors.New("the kernel serves no hand-off in its network namespace")

// ConfirmWaypoint asks the kernel whether a waypoint's pod is served at a port: its entry
// is there and the program that answers runs for its cgroup. It changes nothing;
// ErrNotServed is in the chain when the entry is missing.
func (e *Engine) ConfirmWaypoint(cgroup, netns *os.File, port uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	have, err := e.servedAt(netns)
	switch {
	case err != nil:
	case have == 0:
		err = ErrNotServed
	case have != uint32(port):
		err = fmt.Errorf("the kernel serves the hand-off at port %d, not at %d", have, port)
	default:
		err = e.answers(cgroup)
	}
	if err != nil {
		return fmt.Errorf("confirm waypoint: %w", err)
	}
	return nil
}

// ConfirmAbsent asks the kernel whether a network namespace is neither a managed pod's nor
// a served waypoint's. It changes nothing.
func (e *Engine) ConfirmAbsent(netns *os.File) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	cookie, err := kernel.NetnsCookie(netns)
	if err != nil {
		return err
	}
	var flags uint32
	switch err := e.managed.m.Lookup(cookie, &flags); {
	case err == nil:
		return errors.New("the kernel manages its network namespace, which is not to be")
	case !errors.Is(err, ebpf.ErrKeyNotExist):
		return fmt.Errorf("read map %s: %w", e.managed.name, err)
	}
	port, err := e.servedAt(netns)
	if err == nil && port != 0 {
		err = fmt.Errorf("the kernel serves a hand-off at port %d in its network namespace, which is not to be", port)
	}
	return err
}

// servedAt is the port at which a network namespace is served by the kernel; 0 when it
// is not.
func (e *Engine) servedAt(netns *os.File) (uint32, error) {
	cookie, err := kernel.NetnsCookie(netns)
	if err != nil {
		return 0, err
	}
	var port uint32
	err = e.waypoints.m.Lookup(cookie, &port)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read map %s: %w", e.waypoints.name, err)
	}
	return port, nil
}
