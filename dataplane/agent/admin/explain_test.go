package admin

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

func TestPodNamed(t *testing.T) {
	pods := []api.Pod{{Name: "a/web"}, {Name: "a/db"}}
	workloads := []*intent.Workload{{Namespace: "a", Name: "db"}, {Namespace: "b", Name: "web"}, {Namespace: "b", Name: "job"}}
	for _, c := range []struct {
		name, full string
		enrolled   bool
		bad        bool
	}{
		{"a/web", "a/web", true, false},
		{"db", "a/db", true, false},
		{"job", "b/job", false, false},
		{"b/web", "b/web", false, false},
		{"web", "", false, true},
		{"nobody", "nobody", false, false},
	} {
		full, enrolled, err := podNamed(pods, workloads, c.name)
		var bad api.BadRequestError
		if full != c.full || enrolled != c.enrolled || errors.As(err, &bad) != c.bad {
			t.Errorf("%s: %q, enrolled %v, %v", c.name, full, enrolled, err)
		}
	}
}

// knows is a node with an engine that did what it is told.
type knows struct {
	status   api.Status
	snapshot intent.Snapshot
	named    []*intent.Policy
}

func (k knows) Engine() Engine { return stillEngine{} }
func (k knows) Status(context.Context, string) (api.Status, error) {
	return k.status, nil
}
func (k knows) Snapshot() intent.Snapshot  { return k.snapshot }
func (k knows) Place() intent.Place        { return intent.Place{Node: "a"} }
func (k knows) Policies() []*intent.Policy { return k.named }

type stillEngine struct{}

func (stillEngine) Exits() (map[intent.Exit]uint64, error) { return nil, nil }
func (stillEngine) Events() (map[l4.Event]uint64, error)   { return nil, nil }
func (stillEngine) Audit() ([]l4.Difference, error)        { return nil, nil }
func (stillEngine) Usage() ([]l4.Usage, error)             { return nil, nil }

// What the kernel has from an earlier agent is not what an empty state says.
func TestNothingIsClaimedOfAnEarlierState(t *testing.T) {
	k := knows{status: api.Status{Node: "a", Pods: []api.Pod{{Name: "default/client"}}}}
	for _, inherited := range []bool{true, false} {
		k.status.Applied.Inherited = inherited
		e, err := handler{k}.explained(t.Context(), "client", "10.96.0.10:80", "")
		if err != nil {
			t.Fatal(err)
		}
		if inherited != (e.Exit == "") {
			t.Errorf("inherited %v: exit %q, %q", inherited, e.Exit, e.Why)
		}
	}
}

func TestOriginOfPolicies(t *testing.T) {
	for name, want := range map[string]string{
		"deny":                                 "shop/deny",
		"istio_converted_static_strict":        "shop/istio_converted_static_strict (of every PeerAuthentication with mode STRICT)",
		"converted_peer_authentication_strict": "shop/converted_peer_authentication_strict (of PeerAuthentication shop/strict)",
	} {
		if got := titled(&intent.Policy{Namespace: "shop", Name: name}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A policy names the pod, and the service's endpoint is a WorkloadEntry with its address.
func TestPolicyOfAnotherNameAtTheAddress(t *testing.T) {
	at := []netip.Addr{netip.MustParseAddr("10.1.1.2")}
	pod := &intent.Workload{UID: "pod", Namespace: "default", Name: "v1", Addresses: at, Weight: 1, Policies: []string{"default/deny"}}
	entry := &intent.Workload{UID: "entry", Namespace: "default", Name: "fortio-v1-v4", Addresses: at, Weight: 1}
	k := knows{
		status: api.Status{Node: "a", Pods: []api.Pod{{Name: "default/client"}}, Applied: api.Applied{Generation: 1}},
		snapshot: intent.Snapshot{
			Workloads: []*intent.Workload{pod, entry},
			Services: []*intent.Service{{
				Namespace: "default", Name: "fortio", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
				Ports:     []intent.Port{{Port: 80, Protocol: intent.TCP, Target: 8080}},
				Endpoints: []intent.Endpoint{{Workload: entry}},
			}},
		},
		named: []*intent.Policy{{Namespace: "default", Name: "deny", Scope: intent.ScopeSelector, Deny: true}},
	}
	e, err := handler{k}.explained(t.Context(), "client", "10.96.0.10:80", "")
	if err != nil {
		t.Fatal(err)
	}
	want := "Policy default/deny names default/v1: received, NOT ENFORCED."
	if e.Exit != string(intent.Redirect) || !slices.Contains(e.Why, want) {
		t.Errorf("exit %s, %q; want %q", e.Exit, e.Why, want)
	}
}
