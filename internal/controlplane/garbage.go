package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// garbage deletes what belongs to a Gateway that is gone, as Kubernetes' collector does:
// istiod, which hears late that a Gateway is gone, makes its Deployment and Service anew
// when they are deleted before that. Left alone they would be there when a Gateway of the
// name is made again, and istiod would not say of that where it is.
type garbage struct {
	client kubernetes.Interface
	log    *slog.Logger
	// gateway reads a Gateway; nil is one that is gone.
	gateway func(context.Context, gatewayID) (metav1.Object, error)
	// release lets a Gateway go that waits until nothing belongs to it.
	release func(ctx context.Context, gateway metav1.Object) error
	// watch tells of Gateways.
	watch cache.SharedIndexInformer
	queue workqueue.TypedRateLimitingInterface[gatewayID]
}

// gatewayID is a Gateway, and not another one of its name.
type gatewayID struct {
	types.NamespacedName
	uid types.UID
}

// A Gateway that cannot go yet, and one whose belongings cannot, is looked at again after
// soon, and then after twice the time, up to late.
const (
	garbageSoon = 20 * time.Millisecond
	garbageLate = 5 * time.Second
)

func newGarbage(client kubernetes.Interface, log *slog.Logger) *garbage {
	return &garbage{client: client, log: log, queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[gatewayID](garbageSoon, garbageLate))}
}

// watchGarbage makes the informers tell of what is made or changed, and of Gateways that
// go.
func watchGarbage(c clients, shared informers.SharedInformerFactory, log *slog.Logger) (*garbage, error) {
	g := newGarbage(c.client, log)
	g.gateway, g.release = c.gateway, c.release
	g.watch = dynamicinformer.NewFilteredDynamicInformer(c.dynamic, gatewayKind, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	_, err := g.watch.AddEventHandler(handler(g.seeGateway))
	errs := []error{err}
	work := cache.ResourceEventHandlerFuncs{AddFunc: g.see, UpdateFunc: func(_, o any) { g.see(o) }}
	for _, informer := range []cache.SharedIndexInformer{
		shared.Apps().V1().Deployments().Informer(), shared.Core().V1().Services().Informer(),
		shared.Core().V1().ServiceAccounts().Informer(),
	} {
		_, err := informer.AddEventHandler(work)
		errs = append(errs, err)
	}
	return g, errors.Join(errs...)
}

// run looks at Gateways until stop, and watches them until ctx ends.
func (g *garbage) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if g.watch != nil {
		wg.Go(func() { g.watch.RunWithContext(ctx) })
	}
	for {
		id, ended := g.queue.Get()
		if ended {
			return
		}
		again, err := g.look(ctx, id)
		if err != nil && ctx.Err() == nil {
			g.log.Warn("a Gateway that goes, or what belonged to it, cannot go yet", "gateway", id.NamespacedName, "error", err)
		}
		if again {
			g.queue.AddRateLimited(id)
		} else {
			g.queue.Forget(id)
		}
		g.queue.Done(id)
	}
}

func (g *garbage) stop() { g.queue.ShutDown() }

// gatewayKind is what istiod makes waypoints of.
var gatewayKind = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}

// seeGateway has a Gateway looked at that goes or has gone.
func (g *garbage) seeGateway(o any) {
	if gateway, ok := o.(metav1.Object); ok {
		g.queue.Add(gatewayID{types.NamespacedName{Namespace: gateway.GetNamespace(), Name: gateway.GetName()}, gateway.GetUID()})
	}
}

// see has the Gateways looked at that an object belongs to.
func (g *garbage) see(o any) {
	meta, ok := o.(metav1.Object)
	if !ok || meta.GetDeletionTimestamp() != nil {
		return
	}
	for _, owner := range meta.GetOwnerReferences() {
		if of, err := schema.ParseGroupVersion(owner.APIVersion); err == nil && of.Group == gatewayKind.Group && owner.Kind == "Gateway" {
			g.queue.Add(gatewayID{types.NamespacedName{Namespace: meta.GetNamespace(), Name: owner.Name}, owner.UID})
		}
	}
}

// look deletes what belongs to a Gateway that is gone, or that was deleted in the foreground:
// that one goes after it. Whether to look again is said also without an error: what was asked
// to go may take its time, and istiod may have made it anew.
func (g *garbage) look(ctx context.Context, id gatewayID) (again bool, err error) {
	gateway, err := g.gateway(ctx, id)
	if err != nil {
		return true, fmt.Errorf("read it: %w", err)
	}
	if gateway != nil && (gateway.GetDeletionTimestamp() == nil || !slices.Contains(gateway.GetFinalizers(), metav1.FinalizerDeleteDependents)) {
		return false, nil
	}
	left, err := g.belongings(ctx, id)
	if err != nil {
		return true, fmt.Errorf("list what belongs to it: %w", err)
	}
	var errs []error
	for _, o := range left {
		switch err := g.remove(ctx, o); {
		case apierrors.IsConflict(err):
			again = true // it is another one by now
		case err != nil && !gone(err):
			errs = append(errs, err)
		}
	}
	switch err := errors.Join(errs...); {
	case err != nil:
		return true, err
	case gateway == nil:
		return again, nil
	case len(left) > 0:
		return true, nil
	}
	switch err := g.release(ctx, gateway); {
	case err == nil, gone(err):
		return false, nil
	case apierrors.IsConflict(err):
		return true, nil // it has changed
	default:
		return true, fmt.Errorf("release it: %w", err)
	}
}

// belongings are what a Gateway is the owner of. The API server is asked: what an informer
// has not heard of yet counts, too.
func (g *garbage) belongings(ctx context.Context, id gatewayID) ([]metav1.Object, error) {
	deployments, e1 := g.client.AppsV1().Deployments(id.Namespace).List(ctx, metav1.ListOptions{})
	services, e2 := g.client.CoreV1().Services(id.Namespace).List(ctx, metav1.ListOptions{})
	accounts, e3 := g.client.CoreV1().ServiceAccounts(id.Namespace).List(ctx, metav1.ListOptions{})
	if err := errors.Join(e1, e2, e3); err != nil {
		return nil, err
	}
	var all []metav1.Object
	for i := range deployments.Items {
		all = append(all, &deployments.Items[i])
	}
	for i := range services.Items {
		all = append(all, &services.Items[i])
	}
	for i := range accounts.Items {
		all = append(all, &accounts.Items[i])
	}
	return slices.DeleteFunc(all, func(o metav1.Object) bool {
		return !slices.ContainsFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == id.uid })
	}), nil
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
	return err
}

// gateway reads a Gateway. An API server that does not know the kind says nothing of it.
func (c clients) gateway(ctx context.Context, id gatewayID) (metav1.Object, error) {
	found, err := c.dynamic.Resource(gatewayKind).Namespace(id.Namespace).Get(ctx, id.Name, metav1.GetOptions{})
	switch {
	case gone(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return nil, nil
	case err != nil:
		return nil, err
	case found.GetUID() != id.uid:
		return nil, nil
	}
	return found, nil
}

// remove deletes an object that is not being deleted.
func (g *garbage) remove(ctx context.Context, o metav1.Object) error {
	if o.GetDeletionTimestamp() != nil {
		return nil
	}
	only := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(o.GetUID()))}
	namespace, name := o.GetNamespace(), o.GetName()
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
