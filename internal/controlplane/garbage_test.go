package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

// What istiod makes for a Gateway that is gone is deleted, of a Gateway that had the name
// before too; what belongs to one that is there, or to nobody, stays.
func TestGarbageOfGateways(t *testing.T) {
	meta := func(name string, owner types.UID) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Name: name, Namespace: "default", UID: "of-" + owner}
		if owner != "" {
			m.OwnerReferences = []metav1.OwnerReference{{Kind: "Gateway", Name: "waypoint", UID: owner}}
		}
		return m
	}
	all := []runtime.Object{
		&corev1.Service{ObjectMeta: meta("old", "before")}, &corev1.Service{ObjectMeta: meta("mine", "now")},
		&corev1.Service{ObjectMeta: meta("alone", "")}, &appsv1.Deployment{ObjectMeta: meta("old", "before")},
		&corev1.ServiceAccount{ObjectMeta: meta("old", "before")}, &corev1.ServiceAccount{ObjectMeta: meta("mine", "now")},
	}
	client := fake.NewClientset(all...)
	g := garbage{client: client, log: slog.New(slog.DiscardHandler), lives: func(_ context.Context, _ string, o metav1.OwnerReference) bool {
		return o.UID == "now"
	}}
	for _, o := range all {
		g.see(t.Context(), o)
	}
	var left []string
	services, err := client.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services.Items {
		left = append(left, s.Name)
	}
	deployments, err := client.AppsV1().Deployments("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := client.CoreV1().ServiceAccounts("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(left, []string{"alone", "mine"}) || len(deployments.Items) != 0 || len(accounts.Items) != 1 {
		t.Errorf("services %v, %d deployments, %d accounts are left", left, len(deployments.Items), len(accounts.Items))
	}
}

// When a Gateway goes, what istiod made for it goes, with nobody touching that.
func TestGarbageOfAGatewayThatGoes(t *testing.T) {
	gateway := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "waypoint", Namespace: "default", UID: "gone"}}
	of := func(owner types.UID) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: "of-" + string(owner), Namespace: "default",
			OwnerReferences: []metav1.OwnerReference{{Kind: "Gateway", Name: "waypoint", UID: owner}},
		}
	}
	all := []runtime.Object{&corev1.Service{ObjectMeta: of("gone")}, &corev1.Service{ObjectMeta: of("other")}}
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	for _, o := range all {
		if err := store.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewClientset(all...)
	g := garbage{client: client, log: slog.New(slog.DiscardHandler), lives: func(_ context.Context, _ string, o metav1.OwnerReference) bool {
		return o.UID != "gone"
	}}
	g.seeGone(t.Context(), cache.DeletedFinalStateUnknown{Obj: gateway}, []cache.Store{store})
	services, err := client.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(services.Items) != 1 || services.Items[0].Name != "of-other" {
		t.Errorf("services %+v are left, %v", services.Items, err)
	}
}

// A Gateway that is deleted in the foreground goes when nothing belongs to it; one that
// waits for somebody else's finalizer alone, and one that stays, are let alone.
func TestGarbageInTheForeground(t *testing.T) {
	now := metav1.Now()
	gateway := func(finalizers ...string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Name: "waypoint", Namespace: "default", UID: "going", DeletionTimestamp: &now, Finalizers: finalizers,
		}}
	}
	stays := gateway(metav1.FinalizerDeleteDependents)
	stays.DeletionTimestamp = nil
	for what, c := range map[string]struct {
		gateway  *metav1.PartialObjectMetadata
		fails    bool
		released bool
		left     int
	}{
		"in the foreground": {gateway(metav1.FinalizerDeleteDependents), false, true, 1},
		"what stays":        {gateway(metav1.FinalizerDeleteDependents), true, false, 2},
		"another finalizer": {gateway("example.com/other"), false, false, 2},
		"it is not deleted": {stays, false, false, 2},
	} {
		of := func(owner types.UID) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
				Name: "of-" + string(owner), Namespace: "default",
				OwnerReferences: []metav1.OwnerReference{{Kind: "Gateway", Name: "waypoint", UID: owner}},
			}}
		}
		all := []runtime.Object{of("going"), of("other")}
		store := cache.NewStore(cache.MetaNamespaceKeyFunc)
		for _, o := range all {
			if err := store.Add(o); err != nil {
				t.Fatal(err)
			}
		}
		client := fake.NewClientset(all...)
		if c.fails {
			client.PrependReactor("delete", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.New("refused")
			})
		}
		released := false
		g := garbage{client: client, log: slog.New(slog.DiscardHandler), release: func(context.Context, metav1.Object) error {
			released = true
			return nil
		}}
		g.seeGoing(t.Context(), c.gateway, []cache.Store{store})
		services, err := client.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || released != c.released || len(services.Items) != c.left {
			t.Errorf("%s: released %v, %d services are left, %v", what, released, len(services.Items), err)
		}
	}
}
