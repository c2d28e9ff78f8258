package agent

import (
	"context"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
	"github.com/duomesh/duomesh/dataplane/source/xds"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

const addressType = "type.googleapis.com/istio.workload.Address"

// scripted is a control plane with a service and its pods.
func scripted(t *testing.T, pods ...string) *adstest.Server {
	t.Helper()
	s, err := adstest.Start(adstest.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	s.Change(addressType, append(sent(pods...), adstest.Resource("default/web.default.svc.cluster.local",
		&workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
			Name: "web", Namespace: "default", Hostname: "web.default.svc.cluster.local",
			Addresses: []*workloadapi.NetworkAddress{{Address: []byte{10, 9, 0, 1}}},
			Ports:     []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}},
		}}})))
	return s
}

// sent are the pods of the service, by their addresses.
func sent(pods ...string) []*discovery.Resource {
	var all []*discovery.Resource
	for _, ip := range pods {
		all = append(all, adstest.Resource(ip, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
			Uid: ip, Name: "w" + ip, Namespace: "default", Addresses: [][]byte{netip.MustParseAddr(ip).AsSlice()},
			Services: map[string]*workloadapi.PortList{"default/web.default.svc.cluster.local": {}},
		}}}))
	}
	return all
}

// ask gives the agent what a control plane sends, until the test ends.
func (r *running) ask(s *adstest.Server) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen, err := xds.Watch(ctx, xds.Config{
		Server:   istiod.Server{Address: s.Address(), Plaintext: true},
		Identity: istiod.Identity{Kind: "ztunnel", IP: "10.0.0.1", Pod: "agent", Namespace: "mesh", Node: "a"},
		Wait:     istiod.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond},
	})
	must(r.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for u := range seen {
			select {
			case r.updates <- Update{
				Snapshot: u.Snapshot, Version: u.Version, Lost: u.Err, Unused: u.Unused,
				Policies: u.Policies, Received: u.Received,
			}:
			case <-ctx.Done():
			}
		}
	}()
	r.atStop = func() { cancel(); <-ended }
}

// TestServesWhileIstiodIsAway: istiod goes, the agent goes, another agent comes while
// istiod is still away, and istiod comes back with another mesh.
func TestServesWhileIstiodIsAway(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	s := scripted(t, "10.1.0.1", "10.1.0.2")
	r.ask(s)
	ready := func(r *running) int { code, _ := r.get("http://" + r.Admin() + "/ready"); return code }
	eventually(t, "ready", func() bool { return ready(r) == 200 })
	p := g.pod(t, "client")
	p.live(t)
	must(t, p.enrol(t, r))
	if got := p.exit(t, r); got != intent.Redirect {
		t.Fatalf("the control: %s", got)
	}
	s.Stop()
	eventually(t, "status says that istiod is away", func() bool { return strings.Contains(r.status().Source.Lost, "istiod") })
	if s := r.status().Source; s.Error != "" || s.Errors > 0 {
		t.Errorf("nothing was refused: %+v", s)
	}
	if got := p.exit(t, r); got != intent.Redirect || ready(r) != 200 {
		t.Errorf("istiod is away: %s, ready %d", got, ready(r))
	}
	must(t, r.stop())

	r = g.start(t)
	r.ask(s)
	eventually(t, "the new agent has tried", func() bool { return r.status().Source.Losses > 0 })
	if got := p.exit(t, r); got != intent.Redirect || ready(r) != 503 {
		t.Errorf("a new agent without istiod: %s, ready %d", got, ready(r))
	}
	s.Change(addressType, sent("10.1.0.3"), "10.1.0.1", "10.1.0.2")
	must(t, s.Resume())
	eventually(t, "ready", func() bool { return ready(r) == 200 })
	if got := p.exit(t, r); got != intent.Redirect {
		t.Errorf("istiod is back: %s", got)
	}
	e, err := r.client.Endpoints(deadline(t))
	must(t, err)
	if f := e.Frontends; len(f) != 2 || len(f[0].Targets) != 1 || f[0].Targets[0].Address.String() != "10.1.0.3:8080" {
		t.Errorf("endpoints are %+v", f)
	}
	a, err := r.client.Audit(deadline(t))
	must(t, err)
	if len(a.Differences) != 0 {
		t.Errorf("the kernel differs: %v", a.Differences)
	}
}

// TestTooLargeForTheKernel: a mesh that does not fit is refused by name, and the one
// before it goes on.
func TestTooLargeForTheKernel(t *testing.T) {
	g := newGround(t)
	cfg := g.config(t)
	cfg.Engine.Limits = l4.Limits{Slots: 8}
	r := g.startAs(t, cfg)
	s := scripted(t, "10.1.0.1")
	r.ask(s)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	eventually(t, "applied", func() bool { return r.status().Applied.Generation == 1 })
	many := []string{"10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6", "10.1.1.7", "10.1.1.8", "10.1.1.9"}
	s.Change(addressType, sent(many...))
	eventually(t, "status names the map", func() bool {
		return strings.Contains(r.status().Source.Error, "map slots: ") && strings.Contains(r.status().Source.Error, "--max-slots")
	})
	if got := p.exit(t, r); got != intent.Redirect || r.status().Applied.Generation != 1 {
		t.Errorf("after what does not fit: %s, %+v", got, r.status().Applied)
	}
	s.Change(addressType, nil, many[2:]...)
	eventually(t, "it fits again", func() bool { x := r.status(); return x.Applied.Generation == 2 && x.Source.Error == "" })
}

// TestPoliciesAreNamed: each policy, each workload that it names, everywhere.
func TestPoliciesAreNamed(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	u := web("one", "10.1.0.1")
	u.Snapshot.Workloads[0].Policies = []string{"default/allow", "default/try"}
	u.Policies = []*intent.Policy{
		{Name: "allow", Namespace: "default", Groups: []intent.PolicyGroup{{Rules: []intent.PolicyRule{
			{Matches: []intent.PolicyMatch{{Conditions: []intent.PolicyCondition{{Attribute: "destinationPorts", Values: []string{"8080"}}}}}},
			{Matches: []intent.PolicyMatch{
				{Conditions: []intent.PolicyCondition{{Attribute: "namespaces", Not: true, Values: []string{"evil"}}, {Attribute: "sourceIps", Values: []string{"10.0.0.0/8"}}}},
				{Conditions: []intent.PolicyCondition{{Attribute: "principals", Values: []string{"a", "b*"}}}},
			}},
		}}}},
		{Name: "strict", Namespace: "istio-system", Scope: intent.ScopeMesh, Deny: true},
		{Name: "other", Namespace: "elsewhere", Scope: intent.ScopeNamespace},
		{Name: "try", Namespace: "default", DryRun: true},
	}
	source := r.apply(u).Source
	if source.UnenforcedPolicies != 3 || source.UnenforcedWorkloads != 1 || len(source.Unenforced) != 4 {
		t.Errorf("status is %+v", source)
	}
	if first := source.Unenforced[0]; first.Policy != "default/allow" || first.Workloads != 1 || first.Some[0] != "default/w" {
		t.Errorf("the first policy is %+v", first)
	}
	policies, err := r.client.Policies(deadline(t))
	must(t, err)
	want := "destinationPorts 8080 and (namespaces not evil and sourceIps 10.0.0.0/8) or (principals a, b*)"
	if x := policies.Policies; len(x) != 4 || x[0].Rules[0] != want || x[1].Action != "DENY" || x[1].Scope != "mesh" || len(x[2].Workloads) != 0 || !x[3].DryRun {
		t.Errorf("policies are %+v", x)
	}
	workloads, err := r.client.Workloads(deadline(t))
	must(t, err)
	if x := workloads.Workloads; len(x) != 1 || strings.Join(x[0].Unenforced, " ") != "default/allow istio-system/strict" || !x[0].Healthy {
		t.Errorf("workloads are %+v", x)
	}
	for _, to := range []string{"10.9.0.1:80", "10.1.0.1:8080"} {
		e, err := r.client.Explain(deadline(t), "client", to, "tcp")
		must(t, err)
		for _, name := range []string{"default/allow", "istio-system/strict"} {
			if !strings.Contains(strings.Join(e.Why, "\n"), "Policy "+name+" names default/w: received, NOT ENFORCED.") {
				t.Errorf("%s: %q does not name %s", to, e.Why, name)
			}
		}
	}
	_, body := r.get("http://" + r.Metrics() + "/metrics")
	for _, line := range []string{"duomesh_policies_unenforced 3", "duomesh_workloads_unenforced 1", "duomesh_workloads_refused 0"} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(body) {
			t.Errorf("metrics lack %s", line)
		}
	}
	// The control: without policies nothing is said.
	if s := r.apply(web("two", "10.1.0.1")).Source; s.UnenforcedPolicies != 0 || len(s.Unenforced) != 0 {
		t.Errorf("status is %+v", s)
	}
}

// TestWaypointOfIstiod: connections go to the replicas that istiod calls healthy, and
// nowhere else.
func TestWaypointOfIstiod(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	s := scripted(t, "10.1.0.1")
	r.ask(s)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	const way = "way.default.svc.cluster.local"
	web := adstest.Resource("default/web.default.svc.cluster.local", &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
		Name: "web", Namespace: "default", Hostname: "web.default.svc.cluster.local",
		Addresses: []*workloadapi.NetworkAddress{{Address: []byte{10, 9, 0, 1}}},
		Ports:     []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}},
		Waypoint: &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Hostname{
			Hostname: &workloadapi.NamespacedHostname{Namespace: "default", Hostname: way},
		}},
	}}})
	replica := func(status workloadapi.WorkloadStatus) *discovery.Resource {
		return adstest.Resource("way-0", &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
			Uid: "way-0", Name: "way-0", Namespace: "default", Addresses: [][]byte{{10, 1, 0, 9}}, Status: status,
			Services: map[string]*workloadapi.PortList{"default/" + way: {}},
		}}})
	}
	generation := uint64(1)
	step := func(want intent.Exit, unused string, set ...*discovery.Resource) {
		t.Helper()
		eventually(t, "applied", func() bool { return r.status().Applied.Generation == generation })
		s.Change(addressType, set)
		generation++
		eventually(t, "applied", func() bool { return r.status().Applied.Generation == generation })
		if got := p.exit(t, r); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if got := strings.Join(r.status().Source.Unused, "\n"); !strings.Contains(got, unused) || (unused == "") != (got == "") {
			t.Errorf("status says %q, want %q", got, unused)
		}
	}
	step(intent.RefuseNoWaypoint, "is not known to istiod", web)
	step(intent.RefuseNoWaypoint, "has no healthy replica", adstest.Resource("default/"+way, &workloadapi.Address{Type: &workloadapi.Address_Service{
		Service: &workloadapi.Service{Name: "way", Namespace: "default", Hostname: way},
	}}))
	step(intent.RedirectWaypoint, "", replica(workloadapi.WorkloadStatus_HEALTHY))
	e, err := r.client.Explain(deadline(t), "client", "10.9.0.1:80", "tcp")
	must(t, err)
	if len(e.Targets) != 1 || e.Targets[0].Address.String() != "10.1.0.9:15029" || len(e.Differences) != 0 {
		t.Errorf("explanation is %+v", e)
	}
	step(intent.RefuseNoWaypoint, "has no healthy replica", replica(workloadapi.WorkloadStatus_UNHEALTHY))
}
