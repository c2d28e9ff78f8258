package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// garbage deletes what belongs to a Gateway that is gone, as Kubernetes' collector does:
// istiod, which hears late that a Gateway is gone, makes its Deployment and Service anew
// when they are deleted before that. Left alone they would be there when a Gateway of the
// name is made again, and istiod would not say of that where it is.
type garbage struct {
	client kubernetes.Interface
	log    *slog.Logger
	// lives reports whether an owner of something in a namespace is there.
	lives func(ctx context.Context, namespace string, owner metav1.OwnerReference) bool
	// release lets a Gateway go that waits until nothing belongs to it.
	release func(ctx context.Context, gateway metav1.Object) error
}

// watchGarbage makes the informers tell of what is made or changed, and of Gateways that
// go.
func watchGarbage(life context.Context, c clients, shared informers.SharedInformerFactory, log *slog.Logger) error {
	g := garbage{client: c.client, log: log, lives: c.lives, release: c.release}
	seen := func(o any) { g.see(life, o) }
	work := cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, o any) { seen(o) }}
	var errs []error
	var stores []cache.Store
	for _, informer := range []cache.SharedIndexInformer{
		shared.Apps().V1().Deployments().Informer(), shared.Core().V1().Services().Informer(),
		shared.Core().V1().ServiceAccounts().Informer(),
	} {
		_, err := informer.AddEventHandler(work)
		errs = append(errs, err)
		stores = append(stores, informer.GetStore())
	}
	gateways := dynamicinformer.NewFilteredDynamicInformer(c.dynamic, gatewayKind, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	_, err := gateways.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { g.seeGoing(life, o, stores) },
		UpdateFunc: func(_, o any) { g.seeGoing(life, o, stores) },
		DeleteFunc: func(o any) { g.seeGone(life, o, stores) },
	})
	if errs = append(errs, err); errors.Join(errs...) == nil {
		go gateways.RunWithContext(life)
	}
	return errors.Join(errs...)
}

// gatewayKind is what istiod makes waypoints of.
var gatewayKind = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}

// seeGoing lets a Gateway go that was deleted in the foreground, after what belongs to it.
func (g garbage) seeGoing(ctx context.Context, o any, stores []cache.Store) {
	gateway, ok := o.(metav1.Object)
	if !ok || gateway.GetDeletionTimestamp() == nil || !slices.Contains(gateway.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		return
	}
	var errs []error
	for _, o := range belongings(gateway, stores) {
		if err := g.remove(ctx, o, o.(metav1.Object)); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		err = g.release(ctx, gateway)
	}
	if err != nil && ctx.Err() == nil && !gone(err) {
		g.log.Warn("a Gateway that is being deleted cannot go", "gateway", gateway.GetName(), "error", err)
	}
}

// belongings are what a Gateway is the owner of.
func belongings(gateway metav1.Object, stores []cache.Store) []any {
	var all []any
	for _, s := range stores {
		for _, o := range s.List() {
			meta, ok := o.(metav1.Object)
			if ok && slices.ContainsFunc(meta.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == gateway.GetUID() }) {
				all = append(all, o)
			}
		}
	}
	return all
}

// release takes the finalizer of a deletion in the foreground off a Gateway, and leaves
// those of others.
func (c clients) release(ctx context.Context, gateway metav1.Object) error {
	left := slices.DeleteFunc(slices.Clone(gateway.GetFinalizers()), func(f string) bool { return f == metav1.FinalizerDeleteDependents })
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": gateway.GetUID(), "resourceVersion": gateway.GetResourceVersion(), "finalizers": left,
	}})
	if err != nil {
		return err
	}
	_, err = c.dynamic.Resource(gatewayKind).Namespace(gateway.GetNamespace()).
		Patch(ctx, gateway.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsConflict(err) {
		return nil // it has changed: the informer tells of it again
	}
	return err
}

// seeGone looks at what belongs to a Gateway that has gone.
func (g garbage) seeGone(ctx context.Context, o any, stores []cache.Store) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	gateway, ok := o.(metav1.Object)
	if !ok {
		return
	}
	for _, o := range belongings(gateway, stores) {
		g.see(ctx, o)
	}
}

// see deletes an object whose Gateway is not there.
func (g garbage) see(ctx context.Context, o any) {
	meta, ok := o.(metav1.Object)
	if !ok || meta.GetDeletionTimestamp() != nil {
		return
	}
	for _, owner := range meta.GetOwnerReferences() {
		if owner.Kind != "Gateway" || g.lives(ctx, meta.GetNamespace(), owner) {
			continue
		}
		if err := g.remove(ctx, o, meta); err != nil && ctx.Err() == nil && !gone(err) {
			g.log.Warn("what belongs to a Gateway that is gone could not be deleted", "gateway", owner.Name, "error", err)
		}
		return
	}
}

// lives reports whether an owner is there; an API server that does not answer has it.
func (c clients) lives(ctx context.Context, namespace string, owner metav1.OwnerReference) bool {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": owner.APIVersion, "kind": owner.Kind}}
	o.SetNamespace(namespace)
	r, err := c.objects.Resource(o)
	if err != nil {
		return true
	}
	found, err := r.Get(ctx, owner.Name, metav1.GetOptions{})
	if err != nil {
		return !gone(err)
	}
	return found.GetUID() == owner.UID
}

func (g garbage) remove(ctx context.Context, o any, meta metav1.Object) error {
	only := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(meta.GetUID()))}
	namespace, name := meta.GetNamespace(), meta.GetName()
	var err error
	switch o.(type) {
	case *appsv1.Deployment:
		err = g.client.AppsV1().Deployments(namespace).Delete(ctx, name, only)
	case *corev1.Service:
		err = g.client.CoreV1().Services(namespace).Delete(ctx, name, only)
	case *corev1.ServiceAccount:
		err = g.client.CoreV1().ServiceAccounts(namespace).Delete(ctx, name, only)
	}
	if err != nil {
		return fmt.Errorf("%s/%s: %w", namespace, name, err)
	}
	return nil
}
