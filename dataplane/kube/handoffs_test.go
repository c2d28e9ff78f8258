package kube

import (
	"context"
	"log/slog"
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/metadata"

	"github.com/duomesh/duomesh/internal/kubetest"
)

// knowsGateways gives the API server a kind of the name, of any form.
func (c *cluster) knowsGateways() {
	c.t.Helper()
	must(c.t, c.server.Apply(c.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{
			"name":        "gateways.gateway.networking.k8s.io",
			"annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test's"},
		},
		"spec": map[string]any{
			"group": gatewayResource.Group, "scope": "Namespaced",
			"names": map[string]any{"kind": "Gateway", "plural": "gateways", "singular": "gateway"},
			"versions": []any{map[string]any{
				"name": gatewayResource.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}))
}

func TestHandoffsOfGateways(t *testing.T) {
	t.Parallel()
	c := &cluster{t: t, server: kubetest.Start(t)}
	config := c.server.As("system:admin", "system:masters")
	meta, err := metadata.NewForConfig(config)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	seen, err := WatchHandoffs(ctx, meta, slog.New(slog.DiscardHandler))
	must(t, err)
	if all := <-seen; len(all) != 0 {
		t.Errorf("where there are no Gateways: %v", all)
	}
	cancel()
	for range seen { // until it is closed
	}

	c.namespace("shop", "")
	c.knowsGateways()
	gateway := func(annotations map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
			"metadata": map[string]any{"name": "way", "namespace": "shop", "annotations": annotations},
		}}
	}
	c.eventually("a Gateway is taken", func() bool {
		return c.server.Apply(t.Context(), gateway(map[string]any{HandoffAnnotation: "kmesh-tlv"})) == nil
	})
	seen, err = WatchHandoffs(t.Context(), meta, slog.New(slog.DiscardHandler))
	must(t, err)
	if all := <-seen; !maps.Equal(all, map[string]string{"shop/way": "kmesh-tlv"}) {
		t.Errorf("the first: %v", all)
	}
	must(t, c.server.Apply(t.Context(), gateway(map[string]any{HandoffAnnotation: "proxy-v2"})))
	if all := <-seen; !maps.Equal(all, map[string]string{"shop/way": "proxy-v2"}) {
		t.Errorf("after a change: %v", all)
	}
	must(t, meta.Resource(gatewayResource).Namespace("shop").Delete(t.Context(), "way", metav1.DeleteOptions{}))
	if all := <-seen; len(all) != 0 {
		t.Errorf("after the end of the Gateway: %v", all)
	}
}
