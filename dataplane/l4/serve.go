package l4

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// served is one waypoint pod of this node.
type served struct {
	port uint16
	// cgroup is the number of the cgroup whose sockets are answered for.
	cgroup uint64
	link   link.Link
}

// ServeWaypoint makes a pod of this node the waypoint end of the hand-off: from its
// return on, SO_ORIGINAL_DST of a socket that the pod accepts at the port answers
// the address that the client asked for, and the pod is managed no more. Listeners
// that the pod has already are prepared where the kernel can (Linux 6.12 with BTF);
// elsewhere one at the port is an error, and the pod is not served.
//
// Serving again does nothing; another port or cgroup replaces the first. It ends
// with StopWaypoint, with the pod's cgroup, and with Remove; where the engine is
// pinned it outlives the process. The descriptors stay the caller's.
func (e *Engine) ServeWaypoint(cgroup, netns *os.File, port uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.serve(cgroup, netns, port); err != nil {
		return fmt.Errorf("serve waypoint: %w", err)
	}
	return nil
}

func (e *Engine) serve(cgroup, netns *os.File, port uint16) error {
	if e.noHandoff != nil {
		return e.noHandoff
	}
	if netns == nil || cgroup == nil || port == 0 {
		return errors.New("network namespace, cgroup and port are all needed")
	}
	inside, err := below(cgroup, e.host.Cgroup)
	if err != nil {
		return err
	}
	if !inside {
		return fmt.Errorf("its cgroup %s is not below the node's, %s", cgroup.Name(), e.host.Cgroup.Name())
	}
	cookie, err := kernel.NetnsCookie(netns)
	if err != nil {
		return err
	}
	if err := e.tidyServed(); err != nil {
		return err
	}
	if have := e.limits.Waypoints; e.served[cookie] == nil && len(e.served) >= int(have) {
		return CapacityError{Map: e.waypoints.name, Need: uint32(len(e.served)) + 1, Have: have}
	}
	if err := e.attachSockOps(); err != nil {
		return err
	}
	if _, managed := e.enrolled[cookie]; managed {
		e.log.Warn("a managed pod is a waypoint and is managed no more", "cgroup", cgroup.Name())
		if err := e.release(cookie); err != nil {
			return err
		}
	}
	fresh, err := e.isNew(cgroup, cookie, port)
	if err != nil {
		return err
	}
	err = e.begin(cgroup, netns, cookie, port, fresh)
	if err != nil && fresh && e.served[cookie] != nil {
		err = errors.Join(err, e.unserve(cookie)) // half of one would be taken for a whole
	}
	return err
}

// isNew reports whether a pod is not served yet as it is to be.
func (e *Engine) isNew(cgroup *os.File, cookie uint64, port uint16) (bool, error) {
	id, err := cgroupID(cgroup)
	if err != nil {
		return false, err
	}
	have := e.served[cookie]
	return have == nil || have.cgroup != id || have.port != port, nil
}

// begin makes the kernel serve a pod.
func (e *Engine) begin(cgroup, netns *os.File, cookie uint64, port uint16, fresh bool) error {
	if err := e.answerFor(cgroup, cookie); err != nil {
		return err
	}
	e.served[cookie].port = port
	if err := e.waypoints.put([]uint64{cookie}, []uint32{uint32(port)}); err != nil {
		return err
	}
	if e.preparer == nil {
		if !fresh {
			return nil // its entry is older than its listeners
		}
		return e.noOlderListener(netns, port)
	}
	n, err := e.prepareListeners(netns)
	if !fresh && errors.Is(err, errUnprepared) {
		return nil // likewise: such a kernel has served it without preparing any
	}
	if n > 0 {
		e.log.Info("listeners of a waypoint are older than its entry and were prepared", "port", port, "listeners", n)
	}
	return err
}

// answerFor attaches the program that answers to a pod's cgroup, in the place of one
// that is attached to another cgroup.
func (e *Engine) answerFor(cgroup *os.File, cookie uint64) error {
	id, err := cgroupID(cgroup)
	if err != nil {
		return err
	}
	old := e.served[cookie]
	if old == nil || old.cgroup != id {
		if old != nil {
			if err := e.unserve(cookie); err != nil {
				return err
			}
		}
		l, err := e.attachGetsockopt(cgroup, cookie)
		if err != nil {
			return err
		}
		e.served[cookie] = &served{cgroup: id, link: l}
	}
	return e.answers(cgroup)
}

// answers fails unless the program runs for a cgroup.
func (e *Engine) answers(cgroup *os.File) error {
	info, err := e.coll.Programs[meshProgMeshGetsockopt].Info()
	if err != nil {
		return fmt.Errorf("program %s: %w", meshProgMeshGetsockopt, err)
	}
	ours, _ := info.ID()
	ids, err := attached(cgroup, ebpf.AttachCGroupGetsockopt, unix.BPF_F_QUERY_EFFECTIVE)
	if err != nil {
		return err
	}
	if !slices.Contains(ids, ours) {
		return fmt.Errorf("program %s does not run for its cgroup %s", meshProgMeshGetsockopt, cgroup.Name())
	}
	return nil
}

func (e *Engine) attachGetsockopt(cgroup *os.File, cookie uint64) (link.Link, error) {
	raw, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(cgroup.Fd()), Program: e.coll.Programs[meshProgMeshGetsockopt], Attach: ebpf.AttachCGroupGetsockopt,
	})
	if err != nil {
		return nil, fmt.Errorf("attach %s to cgroup %s: %w", meshProgMeshGetsockopt, cgroup.Name(), explain(err))
	}
	l, err := typed(raw)
	if err != nil {
		return nil, err
	}
	if e.pins != nil {
		if err := l.Pin(e.pins.served(cookie)); err != nil {
			return nil, errors.Join(fmt.Errorf("pin link of %s: %w", meshProgMeshGetsockopt, err), l.Close())
		}
	}
	return l, nil
}

// typed turns a link into one whose Info names its cgroup.
func typed(raw *link.RawLink) (link.Link, error) {
	defer raw.Close()
	fd, err := unix.FcntlInt(uintptr(raw.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of a link: %w", err)
	}
	l, err := link.NewFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("read link: %w", err)
	}
	return l, nil
}

// StopWaypoint ends what ServeWaypoint began. Only the network namespace is needed;
// one that is not served is no error.
func (e *Engine) StopWaypoint(netns *os.File) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if netns == nil {
		return errors.New("stop waypoint: its network namespace is needed")
	}
	cookie, err := kernel.NetnsCookie(netns)
	if err == nil && e.served[cookie] != nil {
		err = e.unserve(cookie)
	}
	if err != nil {
		return fmt.Errorf("stop waypoint: %w", err)
	}
	return nil
}

func (e *Engine) unserve(cookie uint64) error {
	if err := e.waypoints.remove([]uint64{cookie}); err != nil {
		return err
	}
	s := e.served[cookie]
	delete(e.served, cookie)
	if e.pins != nil {
		if err := s.link.Unpin(); err != nil {
			return errors.Join(fmt.Errorf("unpin link of %s: %w", meshProgMeshGetsockopt, err), s.link.Close())
		}
	}
	return s.link.Close()
}

// tidyServed drops the waypoints whose cgroup is gone: the kernel has ended the link.
func (e *Engine) tidyServed() error {
	for cookie, s := range e.served {
		id, err := linkedCgroup(s.link)
		if err != nil {
			return err
		}
		if id == s.cgroup {
			continue
		}
		if err := e.unserve(cookie); err != nil {
			return err
		}
	}
	return nil
}

// linkedCgroup is 0 when the cgroup of a link is gone.
func linkedCgroup(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read link: %w", err)
	}
	if c := info.Cgroup(); c != nil {
		return c.CgroupId, nil
	}
	return 0, errors.New("not a link to a cgroup")
}

// adoptServed takes over the waypoints of an earlier process, and what of the
// hand-off it has attached. Half of one, or one whose pod has ended, is taken away.
func (e *Engine) adoptServed() error {
	if e.pins == nil || e.pins.fresh || e.noHandoff != nil {
		return nil
	}
	ports := map[uint64]uint32{}
	if err := e.waypoints.each(func(cookie uint64, port uint32) { ports[cookie] = port }); err != nil {
		return err
	}
	cookies, err := e.pins.servedCookies()
	if err != nil {
		return err
	}
	for _, cookie := range cookies {
		if err := e.adoptOne(cookie, uint16(ports[cookie])); err != nil {
			return err
		}
	}
	for cookie := range ports {
		if e.served[cookie] == nil {
			if err := e.waypoints.remove([]uint64{cookie}); err != nil {
				return err
			}
		}
	}
	if len(e.served) > 0 || exists(e.pins.link(meshProgMeshSockops)) || e.state.leads(isHandedOff) {
		return e.attachSockOps()
	}
	return nil
}

func (e *Engine) adoptOne(cookie uint64, port uint16) error {
	path := e.pins.served(cookie)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return PinError{Path: path, Reason: err.Error()}
	}
	id, err := linkedCgroup(l)
	if err != nil {
		return errors.Join(PinError{Path: path, Reason: err.Error()}, l.Close())
	}
	if id == 0 || port == 0 {
		return errors.Join(l.Unpin(), l.Close())
	}
	if err := l.Update(e.coll.Programs[meshProgMeshGetsockopt]); err != nil {
		return errors.Join(fmt.Errorf("replace program in link %s: %w", path, explain(err)), l.Close())
	}
	e.served[cookie] = &served{port: port, cgroup: id, link: l}
	return nil
}

// leads is true when a frontend has such flags.
func (m *mirror) leads(such func(flags uint16) bool) bool {
	for _, v := range m.fronts {
		if such(v.Flags) {
			return true
		}
	}
	return false
}

// closeServed lets go of the links: what is pinned stays.
func (e *Engine) closeServed() error {
	var errs []error
	for _, s := range e.served {
		errs = append(errs, s.link.Close())
	}
	return errors.Join(errs...)
}
