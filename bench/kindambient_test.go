package bench

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestOnClusterRunsWhatItHas: with Ambient in it its rows run, but for the one that
// cannot be said there; without, each is NOT RUN with the reason.
func TestOnClusterRunsWhatItHas(t *testing.T) {
	all := plan.Plan{Variants: plan.Variants()}
	with, without := OnCluster(all, ""), OnCluster(all, "the cluster has no Istio Ambient: none")
	if with.World != plan.Kubernetes || !slices.Contains(with.Variants, plan.Ztunnel) || !slices.Contains(with.Variants, plan.ZtunnelWaypoint) {
		t.Errorf("with Ambient: %v on %s", with.Variants, with.World)
	}
	for v, want := range map[plan.Variant]string{
		plan.ZtunnelPlain: "HBONE", plan.HBONERef: "stand-in", plan.TCPRedirect: "stand-in", plan.DNAT1000: "kube-proxy", plan.EnvoyDirect: "no listener",
	} {
		for _, p := range []plan.Plan{with, without} {
			if why, absent := p.WhyAbsent(v); !absent || !strings.Contains(why, want) || slices.Contains(p.Variants, v) {
				t.Errorf("%s: %q, want %q", v, why, want)
			}
		}
	}
	for _, v := range ambientVariants {
		if why, absent := without.WhyAbsent(v); !absent || why != "the cluster has no Istio Ambient: none" || slices.Contains(without.Variants, v) {
			t.Errorf("without Ambient, %s: %q", v, why)
		}
	}
	if !slices.Equal(all.Variants, plan.Variants()) || !slices.Contains(without.Variants, plan.L7) {
		t.Error("the plan it was made from has changed, or lacks what a cluster has")
	}
}

// TestNoAmbientSaysWhatIsMissing: what is not there, or not ready, is named, and is no error.
func TestNoAmbientSaysWhatIsMissing(t *testing.T) {
	set := func(name string, want, ready int32) runtime.Object {
		return &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system", Labels: map[string]string{"app.kubernetes.io/name": name}},
			Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
			Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: want, NumberReady: ready},
		}
	}
	for want, objects := range map[string][]runtime.Object{
		"there is no DaemonSet of istio-cni": nil,
		"there is no DaemonSet of ztunnel":   {set("istio-cni", 3, 3)},
		"ztunnel is ready on 1 of 3 nodes":   {set("istio-cni", 3, 3), set("ztunnel", 3, 1)},
		"istio-cni is ready on 0 of 0 nodes": {set("istio-cni", 0, 0), set("ztunnel", 3, 3)},
		"no pod of it is ready":              {set("istio-cni", 3, 3), set("ztunnel", 3, 3)},
	} {
		why, programs, err := NoAmbient(t.Context(), &cluster.Client{Interface: fake.NewClientset(objects...)})
		if err != nil || !strings.HasPrefix(why, "the cluster has no Istio Ambient") || !strings.Contains(why, want) || programs != nil {
			t.Errorf("%q, %v, %v: want %q", why, programs, err, want)
		}
	}
}

// TestClusterTopologyBehindProxies: every pod is captured but the waypoint, which is one
// of istiod's, and the service names it.
func TestClusterTopologyBehindProxies(t *testing.T) {
	for v, captured := range map[plan.Variant]bool{plan.Direct: false, plan.Ztunnel: true, plan.ZtunnelWaypoint: true} {
		s := shapeOf(v)
		waypoints := 0
		for _, n := range clusterTopology(s, v.Traits().Redirect).Nodes {
			for _, p := range n.Pods {
				if p.Waypoint {
					waypoints++
				}
				if p.Managed != (captured && !p.Waypoint) {
					t.Errorf("%s: pod %+v", v, p)
				}
			}
		}
		if want := v == plan.ZtunnelWaypoint; (waypoints == 1) != want {
			t.Errorf("%s has %d waypoints", v, waypoints)
		}
	}
	one := clusterServices(shapeOf(plan.ZtunnelWaypoint)).Services[0]
	plainly := clusterServices(shapeOf(plan.Ztunnel)).Services[0]
	if one.Waypoint != proxyPod || one.Ports[0].Name != "http" || plainly.Waypoint != "" {
		t.Errorf("services are %+v, %+v", one, plainly)
	}
	if t1 := clusterTopology(shapeOf(plan.Ztunnel), true); t1.Mesh != scenario.Duomesh {
		t.Errorf("mesh %s", t1.Mesh)
	}
}

// TestWantedOfACluster: the identities are of the world's own namespace, and with a
// waypoint it is each side's other end.
func TestWantedOfACluster(t *testing.T) {
	client, server := wanted(plan.ZtunnelWaypoint, "ns", clientCross)
	const at = "spiffe://cluster.local/ns/ns/sa/"
	if want := (ambient.Opened{Reporter: "source", Security: "mutual_tls", Source: at + clientCross, Destination: at + proxyPod}); client != want {
		t.Errorf("client's side: %+v", client)
	}
	if want := (ambient.Opened{Reporter: "destination", Security: "mutual_tls", Source: at + proxyPod, Destination: at + serverPod}); server != want {
		t.Errorf("server's side: %+v", server)
	}
}

// TestCountedOtherwise: what the proxies count as something else in the span is told, and
// nothing that was before.
func TestCountedOtherwise(t *testing.T) {
	client := ambient.Opened{Reporter: "source", Source: "a", Destination: "b", Security: "mutual_tls"}
	opened := func(o ambient.Opened, n uint64) ambient.Opened {
		o.Count = n
		return o
	}
	server, plain, again := client, client, client
	server.Reporter = "destination"
	plain.Reporter, plain.Source, plain.Security = "destination", "unknown", "unknown"
	again.Destination = "c" // of a proxy that was started anew
	before := []ambient.Opened{opened(client, 1), opened(plain, 3), opened(again, 5)}
	after := []ambient.Opened{opened(client, 9), opened(server, 8), opened(plain, 3), opened(again, 1)}
	if got := otherwise(before, after, client, server); got != nil {
		t.Errorf("%v", got)
	}
	after[2].Count = 5
	if got := otherwise(before, after, client, server); len(got) != 1 || got["at the destination from unknown to b, unknown"] != 2 {
		t.Errorf("%v", got)
	}
}

// TestRowBeginsWhenItIsCarried: an answer that came past the node proxies is not enough.
func TestRowBeginsWhenItIsCarried(t *testing.T) {
	counted := func(n, of uint64) (r result.Trial) {
		r.Redirected, r.Client.Connections = &n, int64(of)
		return r
	}
	behind := Site{Proxies: clusterProxies{}}
	if !carried(behind, counted(7, 7)) || !carried(Site{}, result.Trial{}) {
		t.Error("what is as it is to be is refused")
	}
	for _, r := range []result.Trial{counted(0, 7), counted(6, 7), counted(8, 7), {}} {
		if carried(behind, r) {
			t.Errorf("taken for carried: %+v", r)
		}
	}
}

// TestMemoryBelowACgroup: what is in a directory below counts, as the containers of a pod.
func TestMemoryBelowACgroup(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/container", 0o755); err != nil {
		t.Fatal(err)
	}
	self := strconv.Itoa(os.Getpid()) + "\n"
	if err := os.WriteFile(dir+"/container/cgroup.procs", []byte(self), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := residentIn(f)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	for program, bytes := range all {
		if bytes == 0 {
			t.Errorf("%s has %d bytes", program, bytes)
		}
	}
}
