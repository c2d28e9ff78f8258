package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// belonging is the metadata of what istiod makes for the Gateway with a UID; "" is none.
func belonging(name string, gateway types.UID) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name + "-of-" + string(gateway))}
	if gateway != "" {
		m.OwnerReferences = []metav1.OwnerReference{
			{APIVersion: "gateway.networking.k8s.io/v1beta1", Kind: "Gateway", Name: "waypoint", UID: gateway},
		}
	}
	return m
}

// waypointWith is the Gateway with a UID.
func waypointWith(uid types.UID) gatewayID {
	return gatewayID{types.NamespacedName{Namespace: "default", Name: "waypoint"}, uid}
}

// collector has these objects, and one Gateway; nil is none.
func collector(gateway *metav1.PartialObjectMetadata, all ...runtime.Object) (*garbage, *fake.Clientset) {
	client := fake.NewClientset(all...)
	g := newGarbage(client, slog.New(slog.DiscardHandler))
	g.gateway = func(_ context.Context, id gatewayID) (metav1.Object, error) {
		if gateway == nil || gateway.UID != id.uid {
			return nil, nil
		}
		return gateway, nil
	}
	g.release = func(context.Context, metav1.Object) error { return errors.New("it is released") }
	return g, client
}

// names are those of the Services, Deployments and ServiceAccounts that are left.
func names(t *testing.T, g *garbage) (all []string) {
	t.Helper()
	for _, uid := range []types.UID{"before", "now", "going", "gone", "other"} {
		left, err := g.belongings(t.Context(), waypointWith(uid))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range left {
			all = append(all, fmt.Sprintf("%s %T", o.GetName(), o))
		}
	}
	return all
}

// What istiod makes for a Gateway that is gone is deleted, of a Gateway that had the name
// before too; what belongs to one that is there, or to nobody, stays.
func TestGarbageOfGateways(t *testing.T) {
	all := []runtime.Object{
		&corev1.Service{ObjectMeta: belonging("old", "before")}, &corev1.Service{ObjectMeta: belonging("mine", "now")},
		&corev1.Service{ObjectMeta: belonging("alone", "")}, &appsv1.Deployment{ObjectMeta: belonging("old", "before")},
		&corev1.ServiceAccount{ObjectMeta: belonging("old", "before")}, &corev1.ServiceAccount{ObjectMeta: belonging("mine", "now")},
	}
	g, client := collector(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "waypoint", UID: "now"}}, all...)
	for _, o := range all {
		g.see(o)
	}
	g.stop()
	g.run(t.Context())
	if got, want := names(t, g), []string{"mine *v1.Service", "mine *v1.ServiceAccount"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	if _, err := client.CoreV1().Services("default").Get(t.Context(), "alone", metav1.GetOptions{}); err != nil {
		t.Errorf("a Service that is nobody's: %v", err)
	}
}

// Kinds that are called Gateway and are others', and what is not a Gateway, say nothing.
func TestGarbageOfOthers(t *testing.T) {
	g, _ := collector(nil)
	for version, kind := range map[string]string{"networking.istio.io/v1": "Gateway", "gateway.networking.k8s.io/v1": "HTTPRoute", "a/b/c": "Gateway"} {
		s := &corev1.Service{ObjectMeta: belonging("one", "gone")}
		s.OwnerReferences[0].APIVersion, s.OwnerReferences[0].Kind = version, kind
		g.see(s)
	}
	if g.queue.Len() != 0 {
		t.Error("it was taken for a Gateway's")
	}
}

// A Gateway that is deleted in the foreground goes when nothing belongs to it any more, and
// not before; one that waits for somebody else's finalizer alone, and one that stays, are let
// alone.
func TestGarbageInTheForeground(t *testing.T) {
	now := metav1.Now()
	gateway := func(deleted *metav1.Time, finalizers ...string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Name: "waypoint", Namespace: "default", UID: "going", DeletionTimestamp: deleted, Finalizers: finalizers,
		}}
	}
	service := func(gateway types.UID, deleted *metav1.Time) *corev1.Service {
		s := &corev1.Service{ObjectMeta: belonging("of-"+string(gateway), gateway)}
		if deleted != nil {
			s.DeletionTimestamp, s.Finalizers = deleted, []string{"example.com/holds"}
		}
		return s
	}
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "services"}, "of-going", errors.New("another UID"))
	const foreground = metav1.FinalizerDeleteDependents
	for what, c := range map[string]struct {
		gateway         *metav1.PartialObjectMetadata
		service         *corev1.Service
		refused         error // deletions of Services
		again, released bool
		fails, left     bool
	}{
		"it has a Service":         {gateway: gateway(&now, foreground), service: service("going", nil), again: true},
		"its Service takes time":   {gateway: gateway(&now, foreground), service: service("going", &now), again: true, left: true},
		"its Service is another":   {gateway: gateway(&now, foreground), service: service("going", nil), refused: conflict, again: true, left: true},
		"its Service stays":        {gateway: gateway(&now, foreground), service: service("going", nil), refused: errors.New("no"), again: true, left: true, fails: true},
		"it has nothing":           {gateway: gateway(&now, foreground), service: service("other", nil), released: true, left: true},
		"another finalizer":        {gateway: gateway(&now, "example.com/other"), service: service("going", nil), left: true},
		"it is not deleted":        {gateway: gateway(nil, foreground), service: service("going", nil), left: true},
		"it is gone":               {service: service("going", nil)},
		"it is gone, made anew":    {service: service("going", nil), refused: conflict, again: true, left: true},
		"it is gone, what is held": {service: service("going", &now), left: true},
	} {
		g, client := collector(c.gateway, c.service)
		if c.refused != nil {
			client.PrependReactor("delete", "services", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, c.refused })
		}
		released := false
		g.release = func(context.Context, metav1.Object) error { released = true; return nil }
		again, err := g.look(t.Context(), waypointWith("going"))
		left := len(names(t, g)) > 0
		if again != c.again || released != c.released || (err != nil) != c.fails || left != c.left {
			t.Errorf("%s: again %v, released %v, left %v, %v", what, again, released, left, err)
		}
	}
}

// What could not be done at once is done: the Gateway is read again, what istiod has made
// anew goes, and a release of a Gateway that has changed meanwhile is tried again.
func TestGarbageAgain(t *testing.T) {
	now := metav1.Now()
	gateway := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "waypoint", Namespace: "default", UID: "going", DeletionTimestamp: &now, Finalizers: []string{metav1.FinalizerDeleteDependents},
	}}
	g, client := collector(gateway, &corev1.Service{ObjectMeta: belonging("waypoint", "going")})
	conflict := apierrors.NewConflict(schema.GroupResource{}, "waypoint", errors.New("it has changed"))
	once := func(err error) func() error {
		return func() error { was := err; err = nil; return was }
	}
	read, deleted, release := once(errors.New("no answer")), once(conflict), once(conflict)
	found := g.gateway
	g.gateway = func(ctx context.Context, id gatewayID) (metav1.Object, error) {
		if err := read(); err != nil {
			return nil, err
		}
		return found(ctx, id)
	}
	client.PrependReactor("delete", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
		err := deleted()
		return err != nil, nil, err
	})
	done := make(chan struct{})
	g.release = func(context.Context, metav1.Object) error {
		err := release()
		if err == nil {
			close(done)
		}
		return err
	}
	ended := make(chan struct{})
	go func() { g.run(t.Context()); close(ended) }()
	g.seeGateway(gateway)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("the Gateway was not released")
	}
	g.stop()
	<-ended
	if left := names(t, g); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}
