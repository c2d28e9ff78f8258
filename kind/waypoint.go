package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// waypointAdmin is the port of a waypoint's admin API, on its pod's loopback.
const waypointAdmin = 15200

// waypointHealth is where kubelet asks whether a waypoint is ready (Istio's template).
const waypointHealth = 15021

// waypoint is how the topology's waypoint is asked.
type waypoint struct {
	pod    *pod
	client *api.Client
	stop   func()
}

func (w *waypoint) close() {
	if w == nil {
		return
	}
	w.client.Close()
	w.stop()
}

// makeWaypoint makes a Gateway of which istiod makes the pod.
func (c *Cluster) makeWaypoint(ctx context.Context, p *pod) error {
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, cluster.Waypoint(c.namespace, p.spec.Name, "service")); err != nil {
		return err
	}
	err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
		list, err := c.client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{
			LabelSelector: "gateway.networking.k8s.io/gateway-name=" + p.spec.Name,
		})
		if err != nil || len(list.Items) == 0 {
			return "istiod has made no pod for the Gateway", err
		}
		o := &list.Items[0]
		p.name = o.Name
		if !ready(o) {
			return "it is not ready " + lastWords(o), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	if err := c.awaitPod(ctx, p, false); err != nil {
		return err
	}
	// It lives as long as the world.
	address, stop, err := c.client.Forward(context.WithoutCancel(ctx), c.namespace, p.name, waypointAdmin)
	if err != nil {
		return err
	}
	c.waypoint = &waypoint{pod: p, client: api.NewClient(address), stop: stop}
	return nil
}

func ready(o *corev1.Pod) bool {
	for _, cond := range o.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// confirmWaypoint returns when the waypoint's Envoy has the routes of all services
// that pass it.
func (c *Cluster) confirmWaypoint(ctx context.Context, o scenario.Objects) error {
	if c.waypoint == nil {
		return nil
	}
	want := map[string]int{} // what the configuration must name
	for _, s := range o.Services {
		for _, r := range s.Routes {
			for _, b := range r.Backends {
				want[fmt.Sprintf("cluster %s.%s.svc.cluster.local", b.Service, c.namespace)]++
				if len(r.Backends) > 1 {
					want[fmt.Sprintf("%s.%s.svc.cluster.local=%d", b.Service, c.namespace, b.Weight)]++
				}
			}
		}
	}
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		s, err := c.waypoint.client.Status(ctx, "")
		switch {
		case err != nil:
			return "", err
		case s.Source.Problem != "":
			return "", errors.New("the waypoint: " + s.Source.Problem)
		case !s.Ready:
			return "the waypoint waits for " + s.Waiting, nil
		}
		text, err := c.waypoint.client.Get(ctx, "/config")
		if err != nil {
			return "", err
		}
		var config any
		if err := json.Unmarshal(text, &config); err != nil {
			return "", fmt.Errorf("read the waypoint's configuration: %w", err)
		}
		have := map[string]int{}
		weights(config, have)
		for what := range want {
			if have[what] == 0 {
				return "the waypoint's Envoy does not have " + what, nil
			}
		}
		return "", nil
	})
}

// weights collects "host=weight" of all weighted clusters in a configuration, and
// "cluster host" of those that Envoy may send to. Istio names a cluster "direction|port|subset|host".
func weights(v any, into map[string]int) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			weights(one, into)
		}
	case map[string]any:
		// One that is warming yet would answer nobody.
		if active, ok := v["dynamic_active_clusters"].([]any); ok {
			for _, one := range active {
				if m, ok := one.(map[string]any)["cluster"].(map[string]any); ok {
					name, _ := m["name"].(string)
					into["cluster "+name[strings.LastIndex(name, "|")+1:]]++
				}
			}
		}
		name, named := v["name"].(string)
		weight, weighed := v["weight"].(float64)
		if named && weighed {
			name, _, _ = strings.Cut(name[strings.LastIndex(name, "|")+1:], ";")
			into[fmt.Sprintf("%s=%d", name, int(weight))]++
		}
		for _, one := range v {
			weights(one, into)
		}
	}
}

// Forwarded implements scenario.Forwarder.
func (c *Cluster) Forwarded(ctx context.Context, pod string) (map[string]uint64, error) {
	if c.waypoint == nil || c.waypoint.pod.spec.Name != pod {
		return nil, fmt.Errorf("pod %s is no waypoint", pod)
	}
	return c.waypoint.client.Forwarded(ctx)
}
