package controlplane

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/kubetest"
)

const gatewayDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gateways.gateway.networking.k8s.io, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/1"}}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: Gateway, plural: gateways, singular: gateway}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// What kubectl delete --cascade=foreground, and duomesh waypoint delete, ask of a real API
// server is done: the Gateway goes, and before it what belongs to it, however long that takes.
func TestForegroundDeletionOfAGateway(t *testing.T) {
	server := kubetest.Start(t)
	file := filepath.Join(t.TempDir(), "gateways.yaml")
	if err := os.WriteFile(file, []byte(gatewayDefinition), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Define(t, file)
	dyn, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, gateways := t.Context(), dyn.Resource(gatewayKind).Namespace("default")
	made, err := gateways.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": map[string]any{"name": "waypoint"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "waypoint", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "gateway.networking.k8s.io/v1", Kind: "Gateway", Name: "waypoint", UID: made.GetUID()},
		}, Finalizers: []string{"example.com/holds"}},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := server.Client.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	if err := gateways.Delete(ctx, "waypoint", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	if _, err := gateways.Get(ctx, "waypoint", metav1.GetOptions{}); err != nil {
		t.Fatalf("it goes by itself, where nobody collects garbage: %v", err) // the control
	}

	objects, err := cluster.Connect(server.Config, metav1.NamespaceDefault)
	if err != nil {
		t.Fatal(err)
	}
	shared := informers.NewSharedInformerFactory(server.Client, 0)
	g, err := watchGarbage(clients{client: objects, objects: objects, dynamic: dyn}, shared, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{})
	read := g.gateway
	g.gateway = func(ctx context.Context, id gatewayID) (metav1.Object, error) {
		select {
		case looked <- struct{}{}:
		case <-ctx.Done():
		}
		return read(ctx, id)
	}
	life, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	defer g.stop()
	wg.Go(func() { g.run(life) }) // before the others are told of anything
	shared.Start(life.Done())
	look := func() {
		t.Helper()
		select {
		case <-looked:
		case <-time.After(time.Minute):
			t.Fatal("it was not looked at")
		}
	}
	services := server.Client.CoreV1().Services("default")
	for range 4 { // the first asks the Service to go
		look()
	}
	held, err := services.Get(ctx, "waypoint", metav1.GetOptions{})
	if err != nil || held.DeletionTimestamp == nil {
		t.Fatalf("its Service was not asked to go: %v", err)
	}
	if _, err := gateways.Get(ctx, "waypoint", metav1.GetOptions{}); err != nil {
		t.Errorf("it has gone before its Service: %v", err)
	}
	if _, err := services.Patch(ctx, "waypoint", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		look()
		_, err := gateways.Get(ctx, "waypoint", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := services.Get(ctx, "waypoint", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its Service: %v", err)
	}
}
