package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
)

// enroller is the part of a Node that enrolments need.
type enroller interface {
	Enrol(dataplane.Pod) error
	Confirm(dataplane.Pod) error
	ConfirmWaypoint(cgroup, netns *os.File, port uint16) error
	ConfirmAbsent(netns *os.File) error
	Leave(dataplane.Pod) error
	Forget(cookie uint64) error
	ServeWaypoint(cgroup, netns *os.File, port uint16) error
	StopWaypoint(netns *os.File) error
	EndStale(...*os.File) ([]dataplane.Ended, error)
	Older(dataplane.Pod) (int, error)
	EndOlder(dataplane.Pod) (int, error)
	Usage() ([]dataplane.Usage, error)
}

// pods knows the enrolled pods, and the waypoints, by name, and sees their end.
type pods struct {
	node enroller
	file string
	log  *slog.Logger
	root *os.File // the node's cgroup
	own  uint64   // inode of the agent's own network namespace

	// place finds a pod's cgroup by its UID.
	place func(uid string) (string, error)
	// reset is Config.ResetExisting.
	reset bool

	mu    sync.Mutex
	known map[string]*pod
}

// pod is one enrolled pod, or one waypoint. The netns descriptor is this package's: it is what
// the entry in the kernel is taken away by.
type pod struct {
	kept
	netns *os.File // nil: enrolled by an earlier agent, and not found again
}

// openPods begins with the pods of an earlier agent that are still there.
func openPods(cfg Config, node enroller) (*pods, error) {
	p := &pods{
		node: node, file: cfg.State, log: cfg.Log, root: cfg.Host.Cgroup, place: noPlace, reset: cfg.ResetExisting,
		known: map[string]*pod{},
	}
	if cfg.Admission != nil {
		p.place = cfg.Admission.Cgroup
	}
	var err error
	// Not self: that is the first thread, which InNetns may have used up.
	if p.own, err = netnsOf("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	before, err := readKept(cfg.State)
	if err != nil {
		return nil, err
	}
	entries, err := p.entries()
	if err != nil {
		return nil, err
	}
	for _, k := range before {
		p.recover(k, entries > 0)
	}
	return p, p.save()
}

// recover takes over a pod of an earlier agent. Without entries in the kernel
// only one whose namespace is found is enrolled, anew.
func (p *pods) recover(k kept, entries bool) {
	if k.Cgroup == "" {
		p.settle(&k)
	}
	if k.Cgroup == "" {
		// Nobody knows where it is: it may be starting, or have ended, as the API will say.
		if entries {
			p.known[k.Name] = &pod{kept: k}
		}
		return
	}
	if !k.CgroupID.at(k.Cgroup) {
		p.log.Info("a pod ended while no agent ran", "pod", k.Name)
		if err := p.node.Forget(k.Cookie); err != nil {
			p.log.Error("the entry of a pod stays", "pod", k.Name, "err", err)
		}
		return
	}
	e := &pod{kept: k}
	if err := p.find(e); err != nil {
		p.log.Warn("a pod of an earlier agent cannot be watched", "pod", k.Name, "err", err)
		if !entries {
			return
		}
	}
	p.known[k.Name] = e
	p.log.Info("enrolled by an earlier agent", "pod", k.Name, "watched", e.netns != nil)
}

// find opens a pod's namespace through one of its processes, and enrols it: what
// is enrolled already is confirmed.
func (p *pods) find(e *pod) error {
	ns, err := netnsOfCookie(e.Cgroup, e.Cookie)
	if err != nil {
		return err
	}
	if err := p.confirm(e.kept, ns); err != nil {
		return errors.Join(err, ns.Close())
	}
	e.netns = ns
	return nil
}

func (p *pods) confirm(k kept, ns *os.File) error {
	dir, err := os.Open(k.Cgroup)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer dir.Close()
	return p.tell(k, ns, dir)
}

// tell tells the engine of a pod or waypoint.
func (p *pods) tell(k kept, ns, cgroup *os.File) error {
	if k.Waypoint != 0 {
		return p.node.ServeWaypoint(cgroup, ns, k.Waypoint)
	}
	return p.node.Enrol(dataplane.Pod{Name: k.Name, Netns: ns, Cgroup: cgroup})
}

// untell takes back what was told, whichever it was.
func (p *pods) untell(name string, ns *os.File) error {
	return errors.Join(p.node.StopWaypoint(ns), p.node.Leave(dataplane.Pod{Name: name, Netns: ns}))
}

// enrol puts a pod under management, or with a hand-off port serves it as a
// waypoint. On success ns is p's; cgroup stays the caller's, and has its path as its
// name. nil is a cgroup that is not known yet.
func (p *pods) enrol(k kept, ns, cgroup *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if k.Netns, err = netnsInode(ns); err != nil {
		return err
	}
	if k.Netns == p.own {
		return errors.New("its network namespace is the node's own: a pod on the host's network is never managed")
	}
	if k.Cookie, err = kernel.NetnsCookie(ns); err != nil {
		return err
	}
	old := p.known[k.Name]
	if old != nil && k.Sandbox == "" && old.livesBeside(k) {
		return fmt.Errorf("enrol pod %s: a process of it is in the network namespace %d that it was enrolled with: not in that of another process, %d",
			k.Name, old.Netns, k.Netns)
	}
	dir := cgroup
	if dir == nil {
		dir = p.root // what runs for it runs for every pod of the node
	} else if k.CgroupID, err = idOf(cgroup); err != nil {
		return err
	}
	if err := p.begin(&k, ns, dir); err != nil {
		return err
	}
	if old != nil {
		if old.Cookie == k.Cookie && k.Sandbox == "" {
			k.UID, k.Sandbox = cmp.Or(k.UID, old.UID), old.Sandbox
		}
		if old.Cookie == k.Cookie && old.Waypoint == k.Waypoint {
			k.Older, k.Ended = old.Older, old.Ended
		}
		p.forget(old, old.Cookie != k.Cookie)
	}
	p.known[k.Name] = &pod{k, ns}
	p.keep()
	return nil
}

// livesBeside reports whether an enroller means the same pod in another network namespace
// while a process of the pod is in the one that it has. It runs there, and whoever finds
// the other has found a process that made one of its own: taken for the pod's, it would
// take the pod out of the mesh. Only the runtime, by the plugin, names a new one.
func (e *pod) livesBeside(k kept) bool {
	if e.UID == "" || e.UID != k.UID || e.Cookie == k.Cookie || e.Cgroup == "" {
		return false
	}
	ns, err := netnsOfCookie(e.Cgroup, e.Cookie)
	if err == nil {
		ns.Close()
	}
	return !errors.Is(err, errNobody)
}

// leave ends the management of a pod, or the service of a waypoint, by its namespace
// or by its name. ns stays the caller's.
func (p *pods) leave(name string, ns *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.known[name]
	if ns != nil {
		cookie, err := kernel.NetnsCookie(ns)
		if err != nil {
			return err
		}
		if err := p.untell(name, ns); err != nil {
			return err
		}
		for _, other := range p.known {
			if other.Cookie == cookie {
				p.forget(other, false)
			}
		}
		p.keep()
		return nil
	}
	switch {
	case e == nil:
		return fmt.Errorf("no pod %q is enrolled, and no network namespace was given", name)
	case e.netns == nil:
		return fmt.Errorf("pod %s was enrolled by an earlier agent and has no process: give its network namespace", name)
	}
	if err := p.untell(name, e.netns); err != nil {
		return err
	}
	p.forget(e, false)
	p.keep()
	return nil
}

// keep saves what has changed. It has happened in the kernel: that the next agent
// will not know it is no reason to call it failed.
func (p *pods) keep() {
	if err := p.save(); err != nil {
		p.log.Error("enrolments cannot be kept for the next agent", "err", err)
	}
}

// forget drops a pod, with its entry in the kernel when the engine is to be told.
func (p *pods) forget(e *pod, tell bool) {
	if p.known[e.Name] == e {
		delete(p.known, e.Name)
	}
	if e.netns == nil {
		if err := p.forgetCookie(e, tell); err != nil {
			p.log.Error("the entry of a pod stays", "pod", e.Name, "err", err)
		}
		return
	}
	if tell {
		if err := p.untell(e.Name, e.netns); err != nil {
			p.log.Error("the entry of a pod stays", "pod", e.Name, "err", err)
		}
	}
	if err := e.netns.Close(); err != nil {
		p.log.Error("close a network namespace", "pod", e.Name, "err", err)
	}
}

// forgetCookie takes the entry of a pod away that no descriptor leads to: no other namespace
// ever has its cookie.
func (p *pods) forgetCookie(e *pod, tell bool) error {
	if !tell {
		return nil
	}
	return p.node.Forget(e.Cookie)
}

// tidy takes out the pods that have ended, and looks again for those that are
// not watched.
func (p *pods) tidy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := false
	for _, e := range p.known {
		if e.Cgroup == "" {
			changed = p.settle(&e.kept) || changed
			continue
		}
		if e.CgroupID.at(e.Cgroup) {
			if e.netns == nil {
				// Fails as long as the pod has no process: known and shown.
				_ = p.find(e)
			}
			continue
		}
		p.log.Info("a pod has ended", "pod", e.Name)
		p.forget(e, true)
		changed = true
	}
	if changed {
		p.keep()
	}
}

// endStale ends the UDP sockets that a change has left with an endpoint that is
// none any more.
func (p *pods) endStale() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*os.File
	for _, e := range p.known {
		if e.netns != nil {
			all = append(all, e.netns)
		}
	}
	ended, err := p.node.EndStale(all...)
	for _, s := range ended {
		p.log.Debug("a UDP socket was ended, its endpoint has left the service", "asked", s.Asked, "endpoint", s.Target)
	}
	if err != nil {
		p.log.Error("UDP sockets stay connected to endpoints that have left their service", "err", err)
	}
}

// list returns the known pods by name, and how many entries of the kernel
// belong to none of them.
func (p *pods) list() (_ []api.Pod, unknown int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []api.Pod{}
	for _, e := range p.known {
		all = append(all, api.Pod{
			Name: e.Name, UID: e.UID, Sandbox: e.Sandbox, Cgroup: e.Cgroup, Netns: e.Netns, Waypoint: e.Waypoint, Held: e.netns != nil, Watched: e.netns != nil && e.Cgroup != "",
			Older: e.Older, Ended: e.Ended,
		})
	}
	slices.SortFunc(all, func(a, b api.Pod) int { return strings.Compare(a.Name, b.Name) })
	entries, err := p.entries()
	return all, max(0, entries-len(all)), err
}

// entries is the number of enrolments and waypoints in the kernel.
func (p *pods) entries() (n int, _ error) {
	usage, err := p.node.Usage()
	maps := 0
	for _, u := range usage {
		if u.Map == "managed" || u.Map == "waypoints" {
			n += int(u.Used)
			maps++
		}
	}
	if maps != 2 {
		err = errors.Join(err, errors.New("the engine has no map of managed pods and waypoints"))
	}
	return n, err
}

// Close lets go of the namespaces. The entries in the kernel stay.
func (p *pods) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, e := range p.known {
		if e.netns != nil {
			errs = append(errs, e.netns.Close())
		}
	}
	clear(p.known)
	return errors.Join(errs...)
}
