package controlplane

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

// Manager is the field manager of what is applied here.
const Manager = "duomesh-netsim"

// parallel bounds the requests that are made side by side.
const parallel = 8

// Apply applies objects on the server's side, each whole, in no order.
func (s *Stack) Apply(ctx context.Context, objects ...*unstructured.Unstructured) error {
	return each(ctx, objects, func(ctx context.Context, o *unstructured.Unstructured) error {
		r, err := s.objects.Resource(o)
		if err != nil {
			return err
		}
		if _, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: Manager, Force: true}); err != nil {
			return fmt.Errorf("apply %s: %w", cluster.Name(o), err)
		}
		return nil
	})
}

// create creates objects that are not there: less work for the server than to apply
// them.
func (s *Stack) create(ctx context.Context, objects ...*unstructured.Unstructured) error {
	return each(ctx, objects, func(ctx context.Context, o *unstructured.Unstructured) error {
		r, err := s.objects.Resource(o)
		if err != nil {
			return err
		}
		_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: Manager})
		if err != nil && !errors.IsAlreadyExists(err) {
			return fmt.Errorf("create %s: %w", cluster.Name(o), err)
		}
		return nil
	})
}

// ApplyYAML applies the objects of a YAML stream.
func (s *Stack) ApplyYAML(ctx context.Context, data string) error {
	objects, err := cluster.Decode([]byte(data))
	if err != nil {
		return err
	}
	return s.Apply(ctx, objects...)
}

// Missing reports whether an object is not there; one that cannot be asked for is taken to
// be.
func (s *Stack) Missing(ctx context.Context, o *unstructured.Unstructured) bool {
	r, err := s.objects.Resource(o)
	if err != nil {
		return false
	}
	_, err = r.Get(ctx, o.GetName(), metav1.GetOptions{})
	return errors.IsNotFound(err)
}

// DeleteYAML deletes the objects of a YAML stream, as Delete does.
func (s *Stack) DeleteYAML(ctx context.Context, data string) error {
	objects, err := cluster.Decode([]byte(data))
	if err != nil {
		return err
	}
	return s.Delete(ctx, objects...)
}

// Delete deletes objects at once; one that is not there is no error.
func (s *Stack) Delete(ctx context.Context, objects ...*unstructured.Unstructured) error {
	return each(ctx, objects, func(ctx context.Context, o *unstructured.Unstructured) error {
		r, err := s.objects.Resource(o)
		if err != nil {
			return err
		}
		err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !errors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", cluster.Name(o), err)
		}
		return nil
	})
}

func each(ctx context.Context, objects []*unstructured.Unstructured, f func(context.Context, *unstructured.Unstructured) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, o := range objects {
		g.Go(func() error { return f(ctx, o) })
	}
	return g.Wait()
}

// define creates definitions of kinds and returns when the API has them.
func (s *Stack) define(ctx context.Context, crds []*unstructured.Unstructured) error {
	if err := s.create(ctx, crds...); err != nil {
		return err
	}
	return each(ctx, crds, s.awaitEstablished)
}

func (s *Stack) awaitEstablished(ctx context.Context, crd *unstructured.Unstructured) error {
	r, err := s.objects.Resource(crd)
	if err != nil {
		return err
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		o, err := r.Get(ctx, crd.GetName(), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("wait for %s: %w", cluster.Name(crd), err)
		}
		if established(o) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not established: %w", cluster.Name(crd), context.Cause(ctx))
		}
	}
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions") // none: not yet
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
