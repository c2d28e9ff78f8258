package l4

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Enrol puts a pod under management: from its return on, its connections are
// decided by the engine. It returns nil only after the kernel has answered that
// the entry is there and that the programs run for the pod's cgroup. Connections
// that the pod already has stay as they are. Enrolling again does nothing.
//
// RewrittenError says that a program of the pod's cgroup changes where connections
// go. A pod whose cgroup is not below Host.Cgroup is refused, and so is one that the
// applied Snapshot calls a gateway; one that a later Snapshot calls so leaves
// with that Apply.
func (e *Engine) Enrol(p Pod) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.enrol(p); err != nil {
		return fmt.Errorf("enrol pod %s: %w", p.Name, err)
	}
	return nil
}

func (e *Engine) enrol(p Pod) error {
	if p.Netns == nil || p.Cgroup == nil {
		return errors.New("network namespace and cgroup are both needed")
	}
	if e.state.gateways[p.Name] > 0 {
		return errors.New("it is a waypoint or gateway, which is never managed")
	}
	inside, err := below(p.Cgroup, e.host.Cgroup)
	if err != nil {
		return err
	}
	if !inside {
		return fmt.Errorf("its cgroup %s is not below the node's, %s", p.Cgroup.Name(), e.host.Cgroup.Name())
	}
	if err := e.effective(p); err != nil {
		return err
	}
	cookie, err := kernel.NetnsCookie(p.Netns)
	if err != nil {
		return err
	}
	if e.served[cookie] != nil {
		return errors.New("its network namespace is a waypoint's, which is never managed")
	}
	if err := e.meetPod(cookie, p); err != nil {
		return err
	}
	if err := e.manage(cookie); err != nil {
		return err
	}
	e.enrolled[cookie] = p.Name
	return nil
}

// manage writes both entries of a pod, unless both are there, and reads them back:
// an enrolment that failed may have left one of the two.
func (e *Engine) manage(cookie uint64) error {
	if e.isManaged(cookie) == nil {
		return nil
	}
	if _, there := e.enrolled[cookie]; !there {
		if have := e.limits.Managed; uint32(len(e.enrolled)) >= have {
			return CapacityError{Map: e.managed.name, Need: uint32(len(e.enrolled)) + 1, Have: have}
		}
	}
	if err := e.managed.put([]uint64{cookie}, []uint32{0}); err != nil {
		return err
	}
	if _, there := e.enrolled[cookie]; !there {
		e.enrolled[cookie] = ""
	}
	if err := e.place(cookie); err != nil {
		return err
	}
	return e.isManaged(cookie)
}

// isManaged fails unless the programs would find that a pod is managed.
func (e *Engine) isManaged(cookie uint64) error {
	var flags uint32
	if err := e.managed.m.Lookup(cookie, &flags); err != nil {
		return fmt.Errorf("read back from map %s: %w", e.managed.name, err)
	}
	var have uint64
	if err := e.pods.m.Lookup(placeOf(cookie), &have); err != nil {
		return fmt.Errorf("read back from map %s: %w", e.pods.name, err)
	}
	if have != cookie && have != placeShared {
		return fmt.Errorf("map %s has %d at the place of netns cookie %d", e.pods.name, have, cookie)
	}
	return nil
}

// effective fails unless all of the engine's programs run for p's cgroup.
func (e *Engine) effective(p Pod) error {
	for _, h := range e.hooks {
		ids, err := attached(p.Cgroup, h.attach, unix.BPF_F_QUERY_EFFECTIVE)
		if err != nil {
			return err
		}
		if !slices.Contains(ids, h.id) {
			return fmt.Errorf("program %s does not run for its cgroup %s", h.program, p.Cgroup.Name())
		}
	}
	return nil
}

// Leave ends the management of a pod. Its open connections stay; getpeername
// still answers for them. A pod that is not enrolled is no error. Only p.Netns
// is needed.
func (e *Engine) Leave(p Pod) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.leave(p); err != nil {
		return fmt.Errorf("pod %s leaves: %w", p.Name, err)
	}
	return nil
}

func (e *Engine) leave(p Pod) error {
	if p.Netns == nil {
		return errors.New("its network namespace is needed")
	}
	cookie, err := kernel.NetnsCookie(p.Netns)
	if err != nil {
		return err
	}
	return e.release(cookie)
}

// Forget takes away what there is of a pod, or of a waypoint, that has ended: by the
// cookie of its network namespace, which is gone with it. A cookie that is not known is
// no error. The cookie of a pod that runs ends its management as Leave does.
func (e *Engine) Forget(cookie uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if e.served[cookie] != nil {
		if err := e.unserve(cookie); err != nil {
			return fmt.Errorf("forget waypoint: %w", err)
		}
	}
	if err := e.release(cookie); err != nil {
		return fmt.Errorf("forget pod: %w", err)
	}
	return nil
}

func (e *Engine) release(cookie uint64) error {
	if err := e.managed.remove([]uint64{cookie}); err != nil {
		return err
	}
	delete(e.enrolled, cookie)
	delete(e.beside, cookie)
	return e.place(cookie)
}

// evict ends the management of pods that the applied Snapshot has come to call
// gateways. A pod that an earlier process enrolled has no name until it is
// enrolled again, and is refused then.
func (e *Engine) evict() error {
	if len(e.state.gateways) == 0 {
		return nil
	}
	for cookie, name := range e.enrolled {
		if e.state.gateways[name] == 0 {
			continue
		}
		if err := e.release(cookie); err != nil {
			return fmt.Errorf("gateway %s leaves: %w", name, err)
		}
		e.log.Warn("a managed pod has become a gateway and is managed no more", "pod", name)
	}
	return nil
}
