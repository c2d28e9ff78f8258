package kind

import (
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
