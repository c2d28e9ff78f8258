package kube

import (
	"context"
	"log/slog"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// HandoffAnnotation on a Gateway says how connections are handed to it as a waypoint:
// original-dst, proxy-v2 or kmesh-tlv.
const HandoffAnnotation = "duomesh.io/handoff"

var gatewayResource = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}

// WatchHandoffs sends what HandoffAnnotation says of all Gateways that have it, by
// "namespace/name", once all are known and again when that changes. A receiver that is
// late gets the newest. Where the cluster has no Gateways, no Gateway has it. The
// channel is closed when ctx ends.
func WatchHandoffs(ctx context.Context, client metadata.Interface, log *slog.Logger) (<-chan map[string]string, error) {
	resource := client.Resource(gatewayResource)
	absent := make(chan struct{}, 1)
	gateways := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return resource.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, o)
		},
	}, &metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
	news := make(chan struct{}, 1)
	tell := func(any) { wake(news) }
	if _, err := gateways.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell,
	}); err != nil {
		return nil, err
	}
	if err := gateways.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		if apierrors.IsNotFound(err) {
			log.Debug("the cluster has no Gateways", "err", err)
			wake(absent)
			return
		}
		log.Error("the API server is asked again", "for", "gateways", "err", err)
	}); err != nil {
		return nil, err
	}
	to, synced := make(chan map[string]string), make(chan struct{})
	go gateways.RunWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), gateways.HasSynced) {
			close(synced)
		}
	}()
	go func() {
		defer close(to)
		select {
		case <-ctx.Done():
			return
		case <-absent:
		case <-synced:
		}
		pass(ctx, news, to, func() map[string]string { return handoffs(gateways.GetStore().List()) })
	}()
	return to, nil
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody will look anyway
	}
}

// pass sends what there is, and again when there is news that changes it.
func pass(ctx context.Context, news <-chan struct{}, to chan<- map[string]string, now func() map[string]string) {
	next, out := now(), to
	for {
		select {
		case <-ctx.Done():
			return
		case out <- next:
			out = nil
		case <-news:
			if seen := now(); !maps.Equal(seen, next) {
				next, out = seen, to
			}
		}
	}
}

func handoffs(gateways []any) map[string]string {
	all := map[string]string{}
	for _, o := range gateways {
		g, ok := o.(metav1.Object)
		if !ok {
			continue
		}
		if codec, there := g.GetAnnotations()[HandoffAnnotation]; there {
			all[g.GetNamespace()+"/"+g.GetName()] = codec
		}
	}
	return all
}
