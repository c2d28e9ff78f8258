package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Manager is the field manager of what the command applies.
const Manager = "duomesh"

// Decode reads the objects of a YAML or JSON stream.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var all []*unstructured.Unstructured
	for {
		o := new(unstructured.Unstructured)
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() == "" || o.GetName() == "" {
			return nil, fmt.Errorf("object %d has no kind or no name", len(all)+1)
		}
		all = append(all, o)
	}
}

// ApplyOptions say how objects are applied.
type ApplyOptions struct {
	// DryRun lets the server check and change nothing.
	DryRun bool
	// Done is told of each object; nil means nobody.
	Done func(*unstructured.Unstructured)
}

// Apply applies objects on the server's side, each whole, in their order.
func (c *Client) Apply(ctx context.Context, o ApplyOptions, objects ...*unstructured.Unstructured) error {
	options := metav1.ApplyOptions{FieldManager: Manager, Force: true}
	if o.DryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for _, object := range objects {
		r, err := c.Resource(object)
		if err != nil {
			return err
		}
		if _, err := r.Apply(ctx, object.GetName(), object, options); err != nil {
			return fmt.Errorf("apply %s: %w", Name(object), err)
		}
		if o.Done != nil {
			o.Done(object)
		}
	}
	return nil
}

// DeleteOptions say how objects are removed.
type DeleteOptions struct {
	// Dependents is what becomes of what belongs to an object; "" is that it goes first.
	Dependents metav1.DeletionPropagation
	// NoWait does not wait until an object is gone.
	NoWait bool
	// Done is told of each object; nil means nobody.
	Done func(*unstructured.Unstructured)
}

// Delete deletes objects in reverse order, each after what belongs to it, and returns
// when they are gone.
func (c *Client) Delete(ctx context.Context, done func(*unstructured.Unstructured), objects ...*unstructured.Unstructured) error {
	return c.Remove(ctx, DeleteOptions{Done: done}, objects...)
}

// Remove deletes objects in reverse order. One that is not there, or of a kind that is
// not, is as asked.
func (c *Client) Remove(ctx context.Context, o DeleteOptions, objects ...*unstructured.Unstructured) error {
	if o.Dependents == "" {
		o.Dependents = metav1.DeletePropagationForeground
	}
	for _, object := range slices.Backward(objects) {
		if known, err := c.Has(object.GroupVersionKind().Group, object.GetKind()); err != nil || !known {
			if err != nil {
				return err
			}
			continue
		}
		r, err := c.Resource(object)
		if err != nil {
			return err
		}
		err = r.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &o.Dependents})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("delete %s: %w", Name(object), err)
		}
		if !o.NoWait {
			if err := c.Gone(ctx, object); err != nil {
				return err
			}
		}
		if o.Done != nil {
			o.Done(object)
		}
	}
	return nil
}

// Gone returns when an object is not there any more.
func (c *Client) Gone(ctx context.Context, object *unstructured.Unstructured) error {
	r, err := c.Resource(object)
	if err != nil {
		return err
	}
	return Await(ctx, func(ctx context.Context) (string, error) {
		_, err := r.Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return Name(object) + " is still there", err
	})
}

// poll is how often something that is awaited is looked at.
const poll = 500 * time.Millisecond

// Await returns when is has nothing to say; the error has its last words. An error that
// passes, as of an API server that is started again, is waited out.
func Await(ctx context.Context, is func(context.Context) (string, error)) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	last := ""
	for {
		said, err := is(ctx)
		switch {
		case err != nil && !ending(ctx) && !passes(err):
			return err
		case err == nil && said == "":
			return nil
		case err == nil:
			last = said
		case !ending(ctx):
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// ending reports whether ctx has ended, or ends before anything is looked at again: what
// fails then, as for a client that may not ask so soon, is for want of time.
func ending(ctx context.Context) bool {
	end, bounded := ctx.Deadline()
	return ctx.Err() != nil || bounded && time.Until(end) < poll
}

// passes reports whether an error says that the API server is away, or has too much to
// do, and not that it has refused.
func passes(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) ||
		net.IsConnectionRefused(err) || net.IsConnectionReset(err) || net.IsHTTP2ConnectionLost(err) ||
		net.IsProbableEOF(err) || net.IsTimeout(err)
}

// List returns the objects of the kind of o that have the labels, in a namespace, or in
// all with "".
func (c *Client) List(ctx context.Context, o *unstructured.Unstructured, namespace, labels string) ([]unstructured.Unstructured, error) {
	kind := o.GroupVersionKind()
	m, err := c.mapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
	}
	list, err := c.dynamic.Resource(m.Resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
	}
	return list.Items, nil
}
