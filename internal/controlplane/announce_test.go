package controlplane

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// gateways has these Gateways. The fake takes their kind's plural from who creates them.
func gateways(t *testing.T, all ...*unstructured.Unstructured) dynamic.Interface {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{gatewayKind: "GatewayList"}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)
	for _, g := range all {
		if _, err := client.Resource(gatewayKind).Namespace("default").Create(t.Context(), g, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return client
}

// A Gateway is touched until istiod says where it is, when a pod of it is ready: not one
// that has an address, and not one whose pods are not ready or gone.
func TestAnnounceGateways(t *testing.T) {
	gateway := func(name string, addresses ...any) *unstructured.Unstructured {
		g := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
			"metadata": map[string]any{"namespace": "default", "name": name},
		}}
		if len(addresses) > 0 {
			if err := unstructured.SetNestedSlice(g.Object, addresses, "status", "addresses"); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	pod := func(name string, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{gatewayLabel: name}},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	watch := gateways(t, gateway("lost"), gateway("starting"), gateway("empty"), gateway("known", map[string]any{"value": "10.96.0.9"}))
	client := fake.NewClientset(pod("lost", corev1.ConditionTrue), pod("starting", corev1.ConditionFalse), pod("known", corev1.ConditionTrue))
	shared := informers.NewSharedInformerFactory(client, 0)
	a, err := newAnnouncer(clients{client: client, dynamic: watch}, shared, slog.New(slog.DiscardHandler), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer a.stop()
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	for _, name := range []string{"lost", "starting", "known", "empty", "gone"} {
		again, err := a.look(t.Context(), types.NamespacedName{Namespace: "default", Name: name})
		if again != (name == "lost") || err != nil {
			t.Errorf("%s: again %v, %v", name, again, err)
		}
	}
	all, err := watch.Resource(gatewayKind).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var touched []string
	for _, g := range all.Items {
		if g.GetAnnotations()[touchedAnnotation] != "" {
			touched = append(touched, g.GetName())
		}
	}
	if !slices.Equal(touched, []string{"lost"}) {
		t.Errorf("touched are %v, want lost alone", touched)
	}
}

// One whose pod becomes ready is looked at again and again while it has no address.
func TestAnnounceAgain(t *testing.T) {
	ready := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "waypoint-1", Labels: map[string]string{gatewayLabel: "waypoint"}},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	lost := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": map[string]any{"namespace": "default", "name": "waypoint"},
	}}
	watch := gateways(t, lost)
	client := fake.NewClientset(ready)
	shared := informers.NewSharedInformerFactory(client, 0)
	changes, err := watch.Resource(gatewayKind).Namespace("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	a, err := newAnnouncer(clients{client: client, dynamic: watch}, shared, slog.New(slog.DiscardHandler), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	shared.Start(t.Context().Done())
	done := make(chan struct{})
	go func() { a.run(t.Context()); close(done) }()
	for range 2 {
		select {
		case <-changes.ResultChan():
		case <-time.After(time.Minute):
			t.Fatal("it was not touched again")
		}
	}
	if got := a.queue.NumRequeues(types.NamespacedName{Namespace: "default", Name: "waypoint"}); got == 0 {
		t.Error("it is looked at as often as before")
	}
	a.stop()
	<-done
}
