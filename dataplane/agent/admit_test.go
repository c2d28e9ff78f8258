package agent

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// labels is an Admission of what a test declares.
type labels struct {
	mu       sync.Mutex
	verdicts map[string]api.Verdict // by UID
	cgroups  map[string]string
}

var errUnknownPod = errors.New("no pod of this UID is on the node")

// Admit implements Admission.
func (l *labels) Admit(_ context.Context, _, uid string) (api.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.verdicts[uid]
	if !ok {
		return v, errUnknownPod
	}
	return v, nil
}

// Cgroup implements Admission.
func (l *labels) Cgroup(uid string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if dir := l.cgroups[uid]; dir != "" {
		return dir, nil
	}
	return "", fs.ErrNotExist
}

// place gives the pod of UID "in" its cgroup.
func (l *labels) place(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cgroups["in"] = dir
}

func newLabels() *labels {
	return &labels{cgroups: map[string]string{}, verdicts: map[string]api.Verdict{
		"in":  {Managed: true, Reason: "it has the label"},
		"out": {Reason: "it has not"},
		"way": {Reason: "it is a gateway or waypoint", Waypoint: 15029},
	}}
}

func (p *somePod) sandbox(uid, id string) api.Sandbox {
	return api.Sandbox{Pod: p.name, UID: uid, ID: id, Netns: p.netns}
}

func TestAdmit(t *testing.T) {
	g := newGround(t)
	known := newLabels()
	g.admission = known
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	socket := r.cfg.EnrolSocket
	in, out := g.pod(t, "in"), g.pod(t, "out")

	v, err := api.Admit(deadline(t), socket, in.sandbox("in", "s1"))
	must(t, err)
	if !v.Managed || v.Reason != "it has the label" {
		t.Errorf("the verdict is %+v", v)
	}
	// Without a cgroup to look at: managed all the same, by its namespace.
	if got := in.exit(t, r); got != intent.Redirect {
		t.Errorf("an admitted pod: %s", got)
	}
	if got := names(r.status().Pods); got != "default/in?" {
		t.Errorf("pods are %s", got)
	}
	v, err = api.Admit(deadline(t), socket, out.sandbox("out", "s2"))
	must(t, err)
	if v.Managed {
		t.Errorf("the verdict is %+v", v)
	}
	if got := out.exit(t, r); got != intent.PassUnmanaged {
		t.Errorf("a pod that is not to be managed: %s", got)
	}
	_, err = api.Admit(deadline(t), socket, out.sandbox("unheard", "s3"))
	wantError(t, err, "admit pod default/out: no pod of this UID")
	noNetns := out.sandbox("out", "s2")
	noNetns.Netns = nil
	_, err = api.Admit(deadline(t), socket, noNetns)
	wantError(t, err, "its network namespace did not come along")

	// Once its cgroup is there its end is seen.
	known.place(in.cgroup.Name())
	eventually(t, "the cgroup is found", func() bool { return names(r.status().Pods) == "default/in" })
	in.end(t)
	eventually(t, "the end is seen", func() bool { return r.entries() == 0 })
}

// TestAdmitWaits: an engine that knows no service would leave the connections of a pod
// that it manages alone. None is admitted before there is a state, or one that an agent
// before has left.
func TestAdmitWaits(t *testing.T) {
	g := newGround(t)
	g.admission = newLabels()
	in, out := g.pod(t, "in"), g.pod(t, "out")
	r := g.start(t)
	refused := func() {
		t.Helper()
		_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, in.sandbox("in", "s1"))
		wantError(t, err, "admit pod default/in: nothing has come from the source yet")
		if !errors.Is(err, api.ErrNotYet) {
			t.Errorf("%v: that asking later may help is not said", err)
		}
		if n := r.entries(); n != 0 {
			t.Errorf("%d pods are managed", n)
		}
	}
	refused()
	_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, out.sandbox("out", "s2"))
	must(t, err)
	// What an agent has left that had nothing itself is no state either.
	must(t, r.stop())
	r = g.start(t)
	refused()

	r.apply(web("one", "10.1.0.1"))
	_, err = api.Admit(deadline(t), r.cfg.EnrolSocket, in.sandbox("in", "s1"))
	must(t, err)
	must(t, r.stop())
	r = g.start(t)
	next := g.pod(t, "next")
	_, err = api.Admit(deadline(t), r.cfg.EnrolSocket, next.sandbox("in", "s3"))
	must(t, err)
	if got := next.exit(t, r); got != intent.Redirect {
		t.Errorf("a pod that was admitted by what an agent before has left: %s", got)
	}
}

func TestAdmitWaypoint(t *testing.T) {
	g := newGround(t)
	known := newLabels()
	g.admission = known
	r := g.start(t)
	w := g.pod(t, "way")
	known.cgroups["way"] = w.cgroup.Name()
	v, err := api.Admit(deadline(t), r.cfg.EnrolSocket, w.sandbox("way", "s1"))
	must(t, err)
	if v.Managed || v.Waypoint != 15029 {
		t.Errorf("the verdict is %+v", v)
	}
	pods := r.status().Pods
	if len(pods) != 1 || pods[0].Waypoint != 15029 || !pods[0].Watched {
		t.Fatalf("pods are %+v", pods)
	}
	confirm := func(uid string) error {
		_, err := api.Confirm(deadline(t), r.cfg.EnrolSocket, w.sandbox(uid, "s1"))
		return err
	}
	must(t, confirm("way"))
	wantError(t, confirm("in"), "the kernel has no entry for its network namespace")
	wantError(t, confirm("out"), "the kernel serves a hand-off at port 15029 in its network namespace, which is not to be")
	must(t, r.node.StopWaypoint(w.netns)) // behind the agent's back
	wantError(t, confirm("way"), "the kernel serves no hand-off in its network namespace")
	must(t, confirm("out"))
	_, err = api.Admit(deadline(t), r.cfg.EnrolSocket, w.sandbox("way", "s1"))
	must(t, err)
	must(t, r.node.ServeWaypoint(w.cgroup, w.netns, 15019))
	wantError(t, confirm("way"), "serves the hand-off at port 15019, not at 15029")
	must(t, api.Release(deadline(t), r.cfg.EnrolSocket, w.sandbox("way", "s1")))
	if r.entries() != 0 {
		t.Error("a waypoint that was released has an entry yet")
	}
}

func TestConfirmAndRelease(t *testing.T) {
	g := newGround(t)
	g.admission = newLabels()
	r := g.start(t)
	socket := r.cfg.EnrolSocket
	p, out := g.pod(t, "p"), g.pod(t, "out")
	sandbox := p.sandbox("in", "s1")
	r.apply(web("one", "10.1.0.1"))

	_, err := api.Confirm(deadline(t), socket, sandbox)
	wantError(t, err, "the kernel has no entry for its network namespace")
	if r.entries() != 0 {
		t.Error("confirming has enrolled")
	}
	_, err = api.Admit(deadline(t), socket, sandbox)
	must(t, err)
	_, err = api.Confirm(deadline(t), socket, sandbox)
	must(t, err)
	v, err := api.Confirm(deadline(t), socket, out.sandbox("out", "s9"))
	must(t, err)
	if v.Managed {
		t.Errorf("the verdict is %+v", v)
	}

	_, err = api.Confirm(deadline(t), socket, p.sandbox("out", "s1"))
	wantError(t, err, "the kernel manages its network namespace, which is not to be")

	bare := sandbox
	bare.Netns = nil
	other := bare
	other.ID = "an earlier sandbox"
	must(t, api.Release(deadline(t), socket, other))
	if r.entries() != 1 {
		t.Error("an earlier sandbox's release has taken the pod away")
	}
	must(t, api.Release(deadline(t), socket, bare)) // the namespace has gone
	if r.entries() != 0 {
		t.Error("a released pod is still managed")
	}
	must(t, api.Release(deadline(t), socket, bare)) // again
	_, err = api.Admit(deadline(t), socket, sandbox)
	must(t, err)
	must(t, api.Release(deadline(t), socket, sandbox))
	must(t, api.Release(deadline(t), socket, sandbox))
	if r.entries() != 0 {
		t.Error("a released pod is still managed")
	}
}

// TestInformerAfterAdmit: the same pod is enrolled with its cgroup, and is still
// released by its sandbox.
func TestInformerAfterAdmit(t *testing.T) {
	g := newGround(t)
	g.admission = newLabels()
	r := g.start(t)
	p := g.pod(t, "p")
	sandbox := p.sandbox("in", "s1")
	r.apply(web("one", "10.1.0.1"))
	_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, sandbox)
	must(t, err)
	must(t, p.enrol(t, r))
	if got := names(r.status().Pods); got != "default/p" || r.entries() != 1 {
		t.Errorf("pods are %s, %d entries", got, r.entries())
	}
	sandbox.Netns = nil
	must(t, api.Release(deadline(t), r.cfg.EnrolSocket, sandbox))
	if r.entries() != 0 {
		t.Error("a released pod is still managed")
	}
}

// TestNextAgentAfterAdmit: a pod whose cgroup came only while no agent ran.
func TestNextAgentAfterAdmit(t *testing.T) {
	g := newGround(t)
	known := newLabels()
	g.admission = known
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	p := g.pod(t, "p")
	_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, p.sandbox("in", "s1"))
	must(t, err)
	must(t, r.stop())
	known.place(p.cgroup.Name())
	p.live(t)
	r = g.start(t)
	if got := names(r.status().Pods); got != "default/p" {
		t.Errorf("pods are %s", got)
	}
	if got := p.exit(t, r); got != intent.Redirect {
		t.Errorf("after a restart: %s", got)
	}
}

// TestNextAgentOfAPodThatIsNowhere: it was admitted, has no cgroup, and its runtime deletes
// it, or the API says that it is gone, when another agent runs. Nothing of it stays.
func TestNextAgentOfAPodThatIsNowhere(t *testing.T) {
	g := newGround(t)
	g.admission = newLabels()
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	p := g.pod(t, "p")
	sandbox := p.sandbox("in", "s1")
	_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, sandbox)
	must(t, err)
	must(t, r.stop())
	r = g.start(t)
	if s := r.status(); names(s.Pods) != "default/p?" || s.Unknown != 0 {
		t.Errorf("pods are %q, %d unknown", names(s.Pods), s.Unknown)
	}
	if got := p.exit(t, r); got != intent.Redirect {
		t.Errorf("it may be starting: %s", got)
	}
	sandbox.Netns = nil
	other := sandbox
	other.UID = "another pod of the name"
	must(t, api.Release(deadline(t), r.cfg.EnrolSocket, other))
	if r.entries() != 1 {
		t.Error("the release of another pod has taken it away")
	}
	must(t, api.Release(deadline(t), r.cfg.EnrolSocket, sandbox))
	if s := r.status(); names(s.Pods) != "" || r.entries() != 0 {
		t.Errorf("pods are %q, %d entries", names(s.Pods), r.entries())
	}
}

func TestAdmitWithoutKubernetes(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "p")
	_, err := api.Admit(deadline(t), r.cfg.EnrolSocket, p.sandbox("in", "s1"))
	wantError(t, err, "this agent is not connected to Kubernetes")
}
