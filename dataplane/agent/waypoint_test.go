package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// versionEnv asks the test binary for the hand-off's version, and to end: 0 when it
// is that of this build, 3 when nobody serves it.
const versionEnv = "DUOMESH_AGENT_TEST_VERSION"

func exitWithVersion() {
	switch err := handoff.Ready(); {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, handoff.ErrNotServed):
		os.Exit(3)
	}
	os.Exit(1)
}

// ready is what a waypoint in the pod hears when it asks its node's engine.
func (p *somePod) ready(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), versionEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.cgroup.Fd())}
	must(t, kernel.InNetns(p.netns, cmd.Start))
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 && code != 3 {
		t.Fatalf("the question for the version: %v", err)
	}
	return err == nil
}

func (p *somePod) serve(t *testing.T, r *running) error {
	return api.ServeWaypoint(deadline(t), r.cfg.EnrolSocket, p.name, p.netns, p.cgroup, handoff.PortOriginalDst)
}

func TestWaypointIsServed(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	way, plain := g.pod(t, "waypoint"), g.pod(t, "plain")
	if way.ready(t) {
		t.Error("somebody answers before anybody was asked to")
	}
	must(t, way.serve(t, r))
	must(t, way.serve(t, r)) // again
	must(t, plain.enrol(t, r))
	if !way.ready(t) || plain.ready(t) {
		t.Errorf("ready: waypoint %v, another pod %v", way.ready(t), plain.ready(t))
	}
	pods := r.status().Pods
	if len(pods) != 2 || pods[1].Name != way.name || pods[1].Waypoint != handoff.PortOriginalDst || pods[0].Waypoint != 0 || r.entries() != 2 {
		t.Errorf("pods are %+v, %d entries", pods, r.entries())
	}
	wantError(t, way.enrol(t, r), "a waypoint's, which is never managed")
	must(t, api.Leave(deadline(t), r.cfg.EnrolSocket, way.name, nil))
	if way.ready(t) || r.entries() != 1 {
		t.Errorf("a waypoint that has left is served, %d entries", r.entries())
	}
}

// An enrolled pod that becomes a waypoint is managed no more.
func TestPodBecomesWaypoint(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	p := g.pod(t, "p")
	must(t, p.enrol(t, r))
	if got := p.exit(t, r); got != intent.Redirect {
		t.Fatalf("the control: %s", got)
	}
	must(t, p.serve(t, r))
	if got := p.exit(t, r); got != intent.PassUnmanaged {
		t.Errorf("a waypoint's own connection: %s", got)
	}
	if s := r.status(); len(s.Pods) != 1 || s.Unknown != 0 || !p.ready(t) {
		t.Errorf("pods are %+v, %d unknown", s.Pods, s.Unknown)
	}
}

func TestWaypointOutlivesTheAgent(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	way, gone := g.pod(t, "waypoint"), g.pod(t, "gone")
	way.live(t)
	must(t, way.serve(t, r))
	must(t, gone.serve(t, r))
	must(t, r.stop())
	if !way.ready(t) {
		t.Error("a waypoint is not served while no agent runs")
	}
	gone.end(t)
	r = g.start(t)
	if s := r.status(); names(s.Pods) != way.name || s.Pods[0].Waypoint != handoff.PortOriginalDst || s.Unknown != 0 || !way.ready(t) {
		t.Errorf("the next agent's pods are %+v, %d unknown", s.Pods, s.Unknown)
	}
	way.end(t)
	eventually(t, "the entry of a waypoint that ended goes", func() bool { return r.entries() == 0 })
}

func TestWaypointNeedsAPort(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "p")
	wantError(t, api.ServeWaypoint(deadline(t), r.cfg.EnrolSocket, p.name, p.netns, p.cgroup, 0), "the hand-off port is for waypoint")
	if r.entries() != 0 {
		t.Error("it is served all the same")
	}
}

// A waypoint that does not listen for what it is handed is a line of the status, which
// names it, its codec and its port.
func TestStatusOfHandOffsToNobody(t *testing.T) {
	for _, codec := range []intent.Codec{intent.OriginalDst, intent.ProxyV2, intent.KmeshTLV} {
		t.Run(string(codec), func(t *testing.T) {
			g := newGround(t)
			r := g.start(t)
			u := web("one", "10.1.0.1")
			u.Snapshot.Services[0].Waypoint = &intent.Waypoint{
				Name: "default/way", Codec: codec, Port: codec.Port(), Endpoints: u.Snapshot.Services[0].Endpoints,
			}
			if s := r.apply(u); s.Source.Error != "" || len(s.HandOffs) > 0 {
				t.Fatalf("status %+v", s)
			}
			p := g.pod(t, "p")
			must(t, kernel.InNetns(p.netns, func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				addr, err := netlink.ParseAddr("10.1.0.1/32")
				return errors.Join(err, netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr))
			}))
			must(t, p.enrol(t, r))
			if got := p.exit(t, r); got != intent.RedirectWaypoint {
				t.Fatalf("the connection: %s", got)
			}
			got := r.status().HandOffs
			want := fmt.Sprintf("waypoints in use: default/way (%s at %d)", codec, codec.Port())
			if len(got) != 2 || !strings.HasPrefix(got[0], "1 connections were refused by their waypoint") || got[1] != want {
				t.Errorf("status says %q", got)
			}
		})
	}
}
