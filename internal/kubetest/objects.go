package kubetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// Objects reads the documents of a YAML file.
func Objects(t testing.TB, path string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	all, err := Parse(data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// Parse reads the documents of a YAML text.
func Parse(data []byte) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// Apply applies an object as kubectl apply --server-side --validate=strict does:
// unknown fields are refused.
func (s *Server) Apply(ctx context.Context, o *unstructured.Unstructured) error {
	return s.apply(ctx, o, nil)
}

// DryRun does all of Apply but keep it.
func (s *Server) DryRun(ctx context.Context, o *unstructured.Unstructured) error {
	return s.apply(ctx, o, []string{metav1.DryRunAll})
}

func (s *Server) apply(ctx context.Context, o *unstructured.Unstructured, dry []string) error {
	r, err := s.resource(o)
	if err != nil {
		return err
	}
	data, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = r.Patch(ctx, o.GetName(), "application/apply-patch+yaml", data, metav1.PatchOptions{
		FieldManager: "kubetest", Force: &force, DryRun: dry, FieldValidation: metav1.FieldValidationStrict,
	})
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

func (s *Server) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		return nil, err
	}
	groups, err := restmapper.GetAPIGroupResources(s.Client.Discovery())
	if err != nil {
		return nil, err
	}
	kind := o.GroupVersionKind()
	m, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return client.Resource(m.Resource), nil
	}
	namespace := o.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return client.Resource(m.Resource).Namespace(namespace), nil
}

// Define applies the CustomResourceDefinitions of a file and returns when their
// kinds are served.
func (s *Server) Define(t testing.TB, path string) {
	t.Helper()
	var served []schema.GroupVersion
	for _, o := range Objects(t, path) {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		must(t, s.Apply(t.Context(), o))
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
		for _, v := range versions {
			if v := v.(map[string]any); v["served"] == true {
				served = append(served, schema.GroupVersion{Group: group, Version: v["name"].(string)})
			}
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for _, gv := range served {
		for {
			_, err := s.Client.Discovery().ServerResourcesForGroupVersion(gv.String())
			if err == nil {
				break
			}
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("kinds of %s are not served: %v", gv, err)
			}
		}
	}
}
