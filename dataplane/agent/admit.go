package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
)

// errNoState: an engine that knows no service leaves every connection alone, so that a
// pod which it manages would be outside the mesh, and nobody would see.
var errNoState = errors.New("nothing has come from the source yet, and no agent before this one has left anything")

// stateTime is how long a pod waits for the first state in one call. Who asks asks again.
const stateTime = 2 * time.Second

// awaitState returns when the engine has a state, of this agent or of one before it.
func (a *Agent) awaitState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	for !a.inherited {
		status, changed := a.state.get()
		if status.Applied.Generation > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.NotYet(fmt.Errorf("%w: %s", errNoState, a.state.sourceProblem()))
		}
	}
	return nil
}

// admit decides about a pod that is about to start, and enrols it when it is to
// be managed; one that is a waypoint is served. Its cgroup is used when it is there:
// kubelet makes it first.
func (a *Agent) admit(ctx context.Context, r api.Request, files api.Files) (*api.Verdict, error) {
	verdict, err := a.verdict(ctx, r, files)
	if err != nil || !verdict.Managed && verdict.Waypoint == 0 {
		return verdict, err
	}
	if verdict.Managed {
		if err := a.awaitState(ctx); err != nil {
			return nil, fmt.Errorf("admit pod %s: %w", r.Pod, err)
		}
	}
	cgroup, err := a.pods.cgroupOf(r.UID)
	if err != nil {
		return nil, fmt.Errorf("admit pod %s: %w", r.Pod, err)
	}
	k := kept{Name: r.Pod, UID: r.UID, Sandbox: r.Sandbox, Waypoint: verdict.Waypoint}
	if cgroup != nil {
		defer cgroup.Close()
		k.Cgroup = cgroup.Name()
	}
	if err := a.pods.enrol(k, files[api.FileNetns], cgroup); err != nil {
		return nil, err
	}
	files.Take(api.FileNetns) // it is a.pods' now
	return verdict, nil
}

// confirm holds the kernel against the verdict.
func (a *Agent) confirm(ctx context.Context, r api.Request, files api.Files) (*api.Verdict, error) {
	verdict, err := a.verdict(ctx, r, files)
	if err != nil {
		return nil, err
	}
	return verdict, a.pods.check(r.Pod, *verdict, files[api.FileNetns])
}

func (a *Agent) verdict(ctx context.Context, r api.Request, files api.Files) (*api.Verdict, error) {
	switch {
	case a.cfg.Admission == nil:
		return nil, fmt.Errorf("%s pod %s: this agent is not connected to Kubernetes and knows no labels", r.Op, r.Pod)
	case !podName.MatchString(r.Pod):
		return nil, fmt.Errorf("pod %q: want namespace/name", r.Pod)
	case files[api.FileNetns] == nil:
		return nil, fmt.Errorf("%s pod %s: its network namespace did not come along", r.Op, r.Pod)
	}
	verdict, err := a.cfg.Admission.Admit(ctx, r.Pod, r.UID)
	if err != nil {
		return nil, fmt.Errorf("%s pod %s: %w", r.Op, r.Pod, err)
	}
	return &verdict, nil
}

func noPlace(string) (string, error) { return "", fs.ErrNotExist }

// cgroupOf opens the cgroup of a UID; nil is one that is not there yet.
func (p *pods) cgroupOf(uid string) (*os.File, error) {
	path, err := p.place(uid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dir, err
}

// settle gives a pod its cgroup, and reports whether it is there by now.
func (p *pods) settle(k *kept) bool {
	dir, err := p.cgroupOf(k.UID)
	if err != nil {
		p.log.Error("look for the cgroup of a pod", "pod", k.Name, "err", err)
	}
	if dir == nil {
		return false
	}
	defer dir.Close()
	id, err := idOf(dir)
	if err != nil {
		p.log.Error("look for the cgroup of a pod", "pod", k.Name, "err", err)
		return false
	}
	k.Cgroup, k.CgroupID = dir.Name(), id
	return true
}

// check asks the kernel whether a pod is as its verdict says: managed, served as a
// waypoint, or neither.
func (p *pods) check(name string, v api.Verdict, ns *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !v.Managed && v.Waypoint == 0 {
		if err := p.node.ConfirmAbsent(ns); err != nil {
			return fmt.Errorf("confirm pod %s: %w", name, err)
		}
		return nil
	}
	dir := p.root
	if e := p.known[name]; e != nil && e.Cgroup != "" {
		cgroup, err := os.Open(e.Cgroup)
		if err != nil {
			return fmt.Errorf("confirm pod %s: its cgroup: %w", name, err)
		}
		defer cgroup.Close()
		dir = cgroup
	}
	if v.Waypoint != 0 {
		if err := p.node.ConfirmWaypoint(dir, ns, v.Waypoint); err != nil {
			return fmt.Errorf("confirm pod %s: %w", name, err)
		}
		return nil
	}
	return p.node.Confirm(dataplane.Pod{Name: name, Netns: ns, Cgroup: dir})
}

// release ends the management of a sandbox, by its namespace where that is still
// there. A pod that is not managed, has another sandbox by now, or is another one of the
// same name, is as asked.
func (p *pods) release(k kept, ns *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.known[k.Name]
	if ns != nil {
		cookie, err := kernel.NetnsCookie(ns)
		if err != nil {
			return err
		}
		if e == nil || e.Cookie != cookie {
			return p.node.Leave(dataplane.Pod{Name: k.Name, Netns: ns})
		}
	}
	if e == nil || ns == nil && (e.Sandbox != k.Sandbox || k.UID != "" && e.UID != "" && e.UID != k.UID) {
		return nil
	}
	p.forget(e, true)
	p.keep()
	return nil
}
