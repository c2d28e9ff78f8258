package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

// Controller enrols the pods of one node.
type Controller struct {
	cfg        Config
	pods       cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	daemonset  cache.SharedIndexInformer // nil: there is none to look after
	queue      workqueue.TypedRateLimitingInterface[string]
	events     record.EventRecorder
	sink       record.EventBroadcaster

	had    atomic.Bool // the DaemonSet has been seen
	housed atomic.Bool // the agent's own namespace has been seen

	mu    sync.Mutex
	known map[string]enrolled // by namespace/name
	told  map[string]string   // the last reason that was logged, by namespace/name
	plain map[string]string   // the UID of pods that were not to be managed, by namespace/name

	outside atomic.Uint64
}

// enrolled is a pod that the agent has confirmed.
type enrolled struct {
	uid   string
	inode uint64
}

var namespaceResource = corev1.SchemeGroupVersion.WithResource("namespaces")

// New makes a controller; nothing is asked before Run.
func New(cfg Config) (*Controller, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("enrolment by Kubernetes: %w", err)
	}
	c := &Controller{
		cfg: cfg, known: map[string]enrolled{}, told: map[string]string{}, plain: map[string]string{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](
			100*time.Millisecond, 30*time.Second)),
		sink: record.NewBroadcaster(),
	}
	c.events = c.sink.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "duomesh-agent", Host: cfg.Node})
	only := fields.OneTermEqualSelector("spec.nodeName", cfg.Node).String()
	c.pods = coreinformers.NewFilteredPodInformer(cfg.Client, metav1.NamespaceAll, 0, cache.Indexers{},
		func(o *metav1.ListOptions) { o.FieldSelector = only })
	c.namespaces = namespaceInformer(cfg.Metadata)
	if cfg.DaemonSet != "" {
		name := fields.OneTermEqualSelector("metadata.name", cfg.DaemonSet).String()
		c.daemonset = appsinformers.NewFilteredDaemonSetInformer(cfg.Client, cfg.Namespace, 0, cache.Indexers{},
			func(o *metav1.ListOptions) { o.FieldSelector = name })
	}
	return c, errors.Join(c.pods.SetTransform(trim), c.handle())
}

// namespaceInformer watches what is said about namespaces, not what is in them.
// Package informers would link the informers of every kind that there is.
func namespaceInformer(client metadata.Interface) cache.SharedIndexInformer {
	resource := client.Resource(namespaceResource)
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return resource.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, o)
		},
	}, &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
}

// trim drops what nobody here reads: the cache holds every pod of the node.
func trim(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	pod.ManagedFields = nil
	pod.Spec.Volumes = nil
	for _, all := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range all {
			all[i] = corev1.Container{Name: all[i].Name}
		}
	}
	return pod, nil
}

func (c *Controller) handle() error {
	_, err := c.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.enqueue, UpdateFunc: func(_, o any) { c.enqueue(o) }, DeleteFunc: c.enqueue,
	})
	if err != nil {
		return err
	}
	_, err = c.namespaces.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if ns, ok := o.(metav1.Object); ok && ns.GetName() == c.cfg.Namespace {
				c.housed.Store(true)
			}
			c.enqueueNamespace(o)
		},
		UpdateFunc: func(old, o any) {
			if mode(old) != mode(o) {
				c.enqueueNamespace(o)
			}
		},
	})
	if err != nil {
		return err
	}
	errs := []error{c.watchErrors("pods", c.pods), c.watchErrors("namespaces", c.namespaces)}
	if c.daemonset != nil {
		_, err := c.daemonset.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { c.had.Store(true) },
			DeleteFunc: func(any) { c.cfg.Log.Warn("the agent's own DaemonSet was deleted", "daemonset", c.cfg.DaemonSet) },
		})
		errs = append(errs, err, c.watchErrors("daemonsets", c.daemonset))
	}
	return errors.Join(errs...)
}

// watchErrors logs why the API server does not answer, with what was asked for.
func (c *Controller) watchErrors(what string, i cache.SharedIndexInformer) error {
	return i.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		c.cfg.Log.Error("the API server is asked again", "for", what, "err", err)
	})
}

func mode(o any) string {
	if m, ok := o.(metav1.Object); ok {
		return m.GetLabels()[ModeLabel]
	}
	return ""
}

func (c *Controller) enqueue(o any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
		c.queue.Add(key)
	}
}

func (c *Controller) enqueueNamespace(o any) {
	ns, ok := o.(metav1.Object)
	if !ok {
		return
	}
	for _, o := range c.pods.GetStore().List() {
		if pod, ok := o.(*corev1.Pod); ok && pod.Namespace == ns.GetName() {
			c.enqueue(pod)
		}
	}
}

// workers is how many pods are enrolled at a time.
const workers = 4

// Run watches and enrols until ctx ends. What is enrolled stays so.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.sink.Shutdown()
	defer c.queue.ShutDown()
	c.sink.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: c.cfg.Client.CoreV1().Events("")})
	for _, i := range c.informers() {
		wg.Go(func() { i.RunWithContext(ctx) })
	}
	if !c.await(ctx) {
		return nil
	}
	c.awaitOwn(ctx)
	c.cfg.Log.Info("the node's pods and all namespaces are known", "node", c.cfg.Node, "pods", len(c.pods.GetStore().ListKeys()))
	for range workers {
		wg.Go(func() { c.work(ctx) })
	}
	wg.Go(func() { c.compare(ctx) })
	<-ctx.Done()
	return nil
}

func (c *Controller) informers() []cache.SharedIndexInformer {
	all := []cache.SharedIndexInformer{c.pods, c.namespaces}
	if c.daemonset != nil {
		all = append(all, c.daemonset)
	}
	return all
}

// Synced reports whether everything has been listed once.
func (c *Controller) Synced() bool { return c.pods.HasSynced() && c.namespaces.HasSynced() }

func (c *Controller) await(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), c.pods.HasSynced, c.namespaces.HasSynced)
}

// ownTime bounds the wait for the agent's own DaemonSet: enrolment does not depend on it.
const ownTime = 2 * time.Second

// awaitOwn returns when the agent's own DaemonSet is known, by whose age pods are told that
// should have come by the plugin.
func (c *Controller) awaitOwn(ctx context.Context) {
	if c.daemonset != nil {
		ctx, cancel := context.WithTimeout(ctx, ownTime)
		defer cancel()
		cache.WaitForCacheSync(ctx.Done(), c.daemonset.HasSynced)
	}
}

func (c *Controller) work(ctx context.Context) {
	for {
		key, end := c.queue.Get()
		if end {
			return
		}
		if err := c.reconcile(ctx, key); err != nil && ctx.Err() == nil {
			c.queue.AddRateLimited(key)
		} else {
			c.queue.Forget(key)
		}
		c.queue.Done(key)
	}
}

// Removed reports whether the agent is being uninstalled, not replaced: its own DaemonSet,
// or the namespace of that, has been there and is gone, or is going. Pods of a namespace
// that is deleted end before their DaemonSet does.
func (c *Controller) Removed() bool {
	if c.daemonset == nil {
		return false
	}
	return isGone(c.namespaces, c.cfg.Namespace, c.housed.Load()) ||
		isGone(c.daemonset, c.cfg.Namespace+"/"+c.cfg.DaemonSet, c.had.Load())
}

// isGone reports whether an object that was there is gone, or is going.
func isGone(i cache.SharedIndexInformer, key string, was bool) bool {
	if !i.HasSynced() {
		return false
	}
	o, there, err := i.GetStore().GetByKey(key)
	if err != nil {
		return false
	}
	if !there {
		return was
	}
	m, ok := o.(metav1.Object)
	return ok && m.GetDeletionTimestamp() != nil
}
