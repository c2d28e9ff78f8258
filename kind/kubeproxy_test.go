package kind

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestKubeletSlices: one object for each family that the node has, of its first address,
// which goes with the service.
func TestKubeletSlices(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "node"},
		{Type: corev1.NodeInternalIP, Address: "172.18.0.3"},
		{Type: corev1.NodeInternalIP, Address: "fc00::3"},
		{Type: corev1.NodeInternalIP, Address: "172.19.0.3"},
		{Type: corev1.NodeExternalIP, Address: "203.0.113.3"},
	}}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "last-1", UID: "uid"}}
	got := kubeletSlices(node, service, 10250)
	if len(got) != 2 {
		t.Fatalf("%d objects", len(got))
	}
	for i, want := range []struct {
		family  discoveryv1.AddressType
		address string
	}{{discoveryv1.AddressTypeIPv4, "172.18.0.3"}, {discoveryv1.AddressTypeIPv6, "fc00::3"}} {
		s := got[i]
		if s.AddressType != want.family || len(s.Endpoints) != 1 || s.Endpoints[0].Addresses[0] != want.address ||
			*s.Ports[0].Port != 10250 || s.Labels[discoveryv1.LabelServiceName] != "last-1" || s.OwnerReferences[0].UID != "uid" {
			t.Errorf("%+v", s)
		}
	}
}

// TestKubeProxiesAreAsked: when a pod wants it, once for what is declared, and again for
// what is declared meanwhile or was not shown.
func TestKubeProxiesAreAsked(t *testing.T) {
	k := newKubeProxies()
	var asked []string
	var fails error
	during := func() {}
	confirm := func() error {
		return k.confirm(t.Context(), func(_ context.Context, service string) error {
			asked = append(asked, service)
			during()
			return fails
		})
	}
	step := func(what string, want error, names ...string) {
		t.Helper()
		asked = nil
		if err := confirm(); !errors.Is(err, want) || !slices.Equal(asked, names) {
			t.Errorf("%s: %v, asked for %v", what, err, asked)
		}
	}
	step("nobody wants it", nil)
	k.want()
	fails = context.DeadlineExceeded
	step("it does not answer", context.DeadlineExceeded, "duomesh-last-1")
	fails, during = nil, k.behind
	step("something is declared meanwhile", nil, "duomesh-last-2")
	during = func() {}
	step("of which nothing is known", nil, "duomesh-last-3")
	step("nothing is new", nil)
	k.behind()
	step("something is", nil, "duomesh-last-4")
}

// TestKubeProxiesInTurn: who waits for another's turn ends with its own context.
func TestKubeProxiesInTurn(t *testing.T) {
	k := newKubeProxies()
	k.want()
	err := k.confirm(t.Context(), func(ctx context.Context, _ string) error {
		other, cancel := context.WithCancel(ctx)
		cancel()
		err := k.confirm(other, func(context.Context, string) error { return errors.New("two ask at once") })
		if !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestEndpointsOfAService: those that are to be are told from those that are, by family,
// readiness and labels.
func TestEndpointsOfAService(t *testing.T) {
	pod := func(name string, is bool, labels map[string]string, ips ...string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		status := corev1.ConditionFalse
		if is {
			status = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		return p
	}
	ours := map[string]string{"in": "it"}
	ending := pod("ending", true, ours, "10.244.0.4")
	ending.DeletionTimestamp = new(metav1.Time)
	pods := []corev1.Pod{
		pod("one", true, ours, "10.244.0.1", "fd00::1"), pod("other", true, nil, "10.244.0.2"),
		pod("unready", false, ours, "10.244.0.3"), ending,
	}
	s := corev1.Service{Spec: corev1.ServiceSpec{Selector: ours, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
	s.Name = "fortio"
	if got := podsOf(s, pods); !maps.Equal(got, map[string]bool{"10.244.0.1": true}) {
		t.Errorf("to be ready: %v", got)
	}
	s.Spec.IPFamilies, s.Spec.PublishNotReadyAddresses = append(s.Spec.IPFamilies, corev1.IPv6Protocol), true
	if got := podsOf(s, pods); !maps.Equal(got, map[string]bool{"10.244.0.1": true, "fd00::1": true, "10.244.0.3": true}) {
		t.Errorf("of both families, ready or not: %v", got)
	}
	slice := func(service, at string, is bool) discoveryv1.EndpointSlice {
		e := discoveryv1.Endpoint{Addresses: []string{at}, Conditions: discoveryv1.EndpointConditions{Ready: &is}}
		o := discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{e}}
		o.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		return o
	}
	all := []discoveryv1.EndpointSlice{slice("fortio", "10.244.0.1", true), slice("fortio", "10.244.0.3", false), slice("other", "10.244.0.2", true)}
	if got := inSlices("fortio", all); !maps.Equal(got, map[string]bool{"10.244.0.1": true}) {
		t.Errorf("are ready: %v", got)
	}
}
