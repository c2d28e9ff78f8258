package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
)

// gatewayLabel names the Gateway of a pod.
const gatewayLabel = "gateway.networking.k8s.io/gateway-name"

// touchedAnnotation is set on a Gateway that istiod is to look at again.
const touchedAnnotation = "duomesh.io/touched"

// announcePatience is how long istiod may take to say where a Gateway with a ready pod is;
// after each touch it is twice as long, up to announceMost: an istiod that is away hears of
// all of them when it is back, and says then where each is.
const (
	announcePatience = 5 * time.Second
	announceMost     = time.Minute
)

// announcer touches Gateways whose pods are ready and of which istiod does not say where
// they are. istiod writes a Gateway's addresses once, when it finds them, and drops what it
// wanted to write when the Gateway has changed meanwhile (a conflict; pilot/pkg/status/
// manager.go), as it does itself when it notes its own version on a new one. It finds them
// anew with the next change of anything: in a cluster that is never far, in a quiet
// simulation it may not come, and no service is told of its waypoint until then.
type announcer struct {
	gateways dynamic.NamespaceableResourceInterface
	pods     corelisters.PodLister
	log      *slog.Logger
	queue    workqueue.TypedRateLimitingInterface[types.NamespacedName]
	patience time.Duration
}

// newAnnouncer makes the informer of pods tell of those that become ready.
func newAnnouncer(c clients, shared informers.SharedInformerFactory, log *slog.Logger, patience time.Duration) (*announcer, error) {
	pods := shared.Core().V1().Pods()
	a := &announcer{
		gateways: c.dynamic.Resource(gatewayKind), pods: pods.Lister(), log: log, patience: patience,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](2*patience, announceMost)),
	}
	_, err := pods.Informer().AddEventHandler(handler(func(o any) {
		if p, ok := o.(*corev1.Pod); ok && p.Labels[gatewayLabel] != "" && isReady(p) {
			a.queue.AddAfter(types.NamespacedName{Namespace: p.Namespace, Name: p.Labels[gatewayLabel]}, a.patience)
		}
	}))
	return a, err
}

// served reports whether a Gateway has a pod that is ready.
func (a *announcer) served(name types.NamespacedName) (bool, error) {
	pods, err := a.pods.Pods(name.Namespace).List(labels.SelectorFromSet(labels.Set{gatewayLabel: name.Name}))
	return slices.ContainsFunc(pods, isReady), err
}

// run looks at Gateways until stop.
func (a *announcer) run(ctx context.Context) {
	for {
		name, ended := a.queue.Get()
		if ended {
			return
		}
		again, err := a.look(ctx, name)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("a Gateway without an address could not be touched", "gateway", name, "error", err)
		}
		if again {
			a.queue.AddRateLimited(name)
		} else {
			a.queue.Forget(name)
		}
		a.queue.Done(name)
	}
}

func (a *announcer) stop() { a.queue.ShutDown() }

// look touches a Gateway that is nowhere, which is to be looked at again.
func (a *announcer) look(ctx context.Context, name types.NamespacedName) (again bool, err error) {
	if is, err := a.served(name); err != nil || !is {
		return false, err
	}
	gateways := a.gateways.Namespace(name.Namespace)
	g, err := gateways.Get(ctx, name.Name, metav1.GetOptions{})
	if err != nil {
		if gone(err) {
			return false, nil
		}
		return true, fmt.Errorf("read it: %w", err)
	}
	addresses, _, err := unstructured.NestedSlice(g.Object, "status", "addresses")
	if err != nil {
		return false, errors.New("its status has no list of addresses")
	}
	if len(addresses) > 0 {
		return false, nil
	}
	a.log.Warn("istiod does not say where a Gateway is whose pod is ready: the Gateway is touched", "gateway", name)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, touchedAnnotation, time.Now().UTC().Format(time.RFC3339Nano))
	_, err = gateways.Patch(ctx, name.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !gone(err) {
		return true, fmt.Errorf("patch it: %w", err)
	}
	return true, nil
}
