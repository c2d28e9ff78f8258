package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	listers "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
)

// endpointSlices writes the EndpointSlices of Services with a selector, as Kubernetes' own
// controller does; those that others manage are theirs.
type endpointSlices struct {
	client     kubernetes.Interface
	log        *slog.Logger
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     listers.EndpointSliceLister
	tracker    *util.EndpointSliceTracker
	reconciler *endpointslice.Reconciler
	events     record.EventBroadcaster
	queue      workqueue.TypedRateLimitingInterface[string]
}

// sliceManager is who manages the slices made here, and mostPerSlice how long they
// get: the controller's own default.
const (
	sliceManager = "endpointslice-controller.duomesh.io"
	mostPerSlice = 100
)

func newSlices(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*endpointSlices, error) {
	services, pods := shared.Core().V1().Services(), shared.Core().V1().Pods()
	all := shared.Discovery().V1().EndpointSlices()
	s := &endpointSlices{
		client: client, log: log, services: services.Lister(), pods: pods.Lister(), slices: all.Lister(),
		tracker: util.NewEndpointSliceTracker(), events: record.NewBroadcaster(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, time.Second)),
	}
	recorder := s.events.NewRecorder(nil, corev1.EventSource{Component: sliceManager}) // nobody listens
	s.reconciler = endpointslice.NewReconciler(client, shared.Core().V1().Nodes().Lister(), mostPerSlice, s.tracker,
		nil, recorder, sliceManager, endpointslice.WithTrafficDistributionEnabled(true, true))
	_, e1 := services.Informer().AddEventHandler(handler(s.seeService))
	_, e2 := pods.Informer().AddEventHandler(handler(s.seePod))
	_, e3 := all.Informer().AddEventHandler(handler(s.seeSlice))
	return s, errors.Join(e1, e2, e3)
}

// handler calls f with every object as it was and as it is.
func handler(f func(o any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(old, o any) { f(old); f(o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			f(o)
		},
	}
}

func (s *endpointSlices) seeService(o any) {
	if svc, ok := o.(*corev1.Service); ok {
		s.queue.Add(svc.Namespace + "/" + svc.Name)
	}
}

func (s *endpointSlices) seePod(o any) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	all, err := s.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // a lister of a cache: never
	}
	for _, svc := range all {
		if len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			s.seeService(svc)
		}
	}
}

func (s *endpointSlices) seeSlice(o any) {
	slice, ok := o.(*discovery.EndpointSlice)
	if ok && s.reconciler.ManagedByController(slice) && slice.Labels[discovery.LabelServiceName] != "" {
		s.queue.Add(slice.Namespace + "/" + slice.Labels[discovery.LabelServiceName])
	}
}

func (s *endpointSlices) stop() {
	s.queue.ShutDown()
	s.events.Shutdown()
}

func (s *endpointSlices) run(ctx context.Context) {
	for {
		key, ended := s.queue.Get()
		if ended {
			return
		}
		if err := s.reconcile(ctx, key); err != nil {
			if ctx.Err() == nil {
				s.log.Debug("endpoints are tried again", "service", key, "error", err)
			}
			s.queue.AddRateLimited(key)
		} else {
			s.queue.Forget(key)
		}
		s.queue.Done(key)
	}
}

// errStale means that the cache does not have yet what was written before.
var errStale = errors.New("the cache of EndpointSlices is behind")

func (s *endpointSlices) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("endpoints of %s: %w", key, err)
	}
	mine, err := s.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{
		discovery.LabelServiceName: name, discovery.LabelManagedBy: sliceManager,
	}))
	if err != nil {
		return err
	}
	svc, err := s.services.Services(namespace).Get(name)
	if gone(err) {
		s.reconciler.DeleteService(namespace, name)
		s.tracker.DeleteService(namespace, name)
		return s.remove(ctx, mine)
	}
	if err != nil {
		return err
	}
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return s.remove(ctx, mine)
	}
	pods, err := s.pods.Pods(namespace).List(labels.SelectorFromSet(svc.Spec.Selector))
	if err != nil {
		return err
	}
	if s.tracker.StaleSlices(svc, mine) {
		return errStale
	}
	return s.reconciler.Reconcile(klog.FromContext(ctx), svc, pods, mine, time.Now())
}

// remove deletes slices whose Service is gone or has no selector any more.
func (s *endpointSlices) remove(ctx context.Context, mine []*discovery.EndpointSlice) error {
	for _, slice := range mine {
		err := s.client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{})
		if err != nil && !gone(err) {
			return err
		}
	}
	return nil
}
