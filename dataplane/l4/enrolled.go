package l4

import (
	"errors"
	"fmt"

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
