package kind

import (
	"context"
	"errors"
	"fmt"

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

// replica is how a pod that is a waypoint's is asked.
type replica struct {
	client *api.Client
	stop   func()
	// restarts is how often its container had been started when it was killed.
	restarts int32
}

func (r *replica) close() {
	r.client.Close()
	r.stop()
}

// makeWaypoints makes the waypoints of o that are not there yet.
func (c *Cluster) makeWaypoints(ctx context.Context, o scenario.Objects) error {
	added, err := c.gateways.add(c.topology, o)
	if err != nil {
		return err
	}
	for i, name := range added {
		if err := c.makeGateway(ctx, name); err != nil {
			for _, none := range added[i:] {
				delete(c.gateways, none) // who applies again makes them
			}
			return fmt.Errorf("waypoint %s: %w", name, err)
		}
	}
	return nil
}

// reach makes a replica's admin API reachable, anew where it was before.
func (c *Cluster) reach(ctx context.Context, name string) error {
	if r := c.replicas[name]; r != nil {
		r.close()
		delete(c.replicas, name)
	}
	// It lives as long as the world.
	address, stop, err := c.client.Forward(context.WithoutCancel(ctx), c.namespace, c.pods[name].name, waypointAdmin)
	if err != nil {
		return err
	}
	c.replicas[name] = &replica{client: api.NewClient(address), stop: stop}
	return nil
}

func (c *Cluster) replica(name string) (*replica, error) {
	if r := c.replicas[name]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("pod %s is no waypoint", name)
}

// killWaypoint ends all processes of a waypoint's containers by SIGKILL. Its pod keeps
// its addresses; kubelet starts its container again.
func (c *Cluster) killWaypoint(ctx context.Context, name string) error {
	r, err := c.replica(name)
	if err != nil {
		return err
	}
	o, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, c.pods[name].name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("waypoint %s: %w", name, err)
	}
	r.restarts = restarts(o)
	return killContainers(o)
}

// startWaypoint returns when a waypoint that was killed has the declared state, and the
// agents send connections to it: kubelet starts it.
func (c *Cluster) startWaypoint(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	r, err := c.replica(name)
	if err != nil {
		return err
	}
	err = cluster.Await(ctx, func(ctx context.Context) (string, error) {
		o, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, c.pods[name].name, metav1.GetOptions{})
		if err == nil && (restarts(o) == r.restarts || !ready(o)) {
			return "waypoint " + name + " has not been started again " + lastWords(o), nil
		}
		return "", err
	})
	if err == nil {
		err = c.reach(ctx, name)
	}
	c.mu.Lock()
	declared := c.objects
	c.mu.Unlock()
	if err == nil {
		err = c.confirm(ctx, declared)
	}
	return err
}

func restarts(o *corev1.Pod) int32 {
	n := int32(0)
	for _, s := range o.Status.ContainerStatuses {
		n += s.RestartCount
	}
	return n
}

// confirm returns when the waypoints and the agents have o.
func (c *Cluster) confirm(ctx context.Context, o scenario.Objects) error {
	if err := c.confirmWaypoints(ctx, o); err != nil {
		return err
	}
	return c.confirmAgents(ctx, o) // behind Ambient there is none to ask
}

// Forwarded implements scenario.Forwarder.
func (c *Cluster) Forwarded(ctx context.Context, pod string) (map[string]uint64, error) {
	r, err := c.replica(pod)
	if err != nil {
		return nil, err
	}
	return r.client.Forwarded(ctx)
}

// confirmWaypoints returns when each replica's Envoy has the routes of all services that
// pass it, and their endpoints.
func (c *Cluster) confirmWaypoints(ctx context.Context, o scenario.Objects) error {
	for name := range c.replicas {
		want, endpoints := c.routes(o, c.gateways.of(name)), c.endpoints(o, c.gateways.of(name))
		err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
			return c.lacks(ctx, name, want, endpoints)
		})
		if err != nil {
			return fmt.Errorf("waypoint %s: %w", name, err)
		}
	}
	return nil
}

// lacks says what a replica's Envoy does not have yet; "" when it has all.
func (c *Cluster) lacks(ctx context.Context, name string, want map[string]int, endpoints map[string][]string) (string, error) {
	r, err := c.replica(name)
	if err != nil {
		return "", err
	}
	s, err := r.client.Status(ctx, "")
	switch {
	case err != nil:
		return "", err
	case s.Source.Problem != "":
		return "", errors.New(s.Source.Problem)
	case !s.Ready:
		return "it waits for " + s.Waiting, nil
	}
	text, err := r.client.Get(ctx, "/config")
	if err != nil {
		return "", err
	}
	have, err := routed(text)
	if err != nil {
		return "", err
	}
	for what := range want {
		if have[what] == 0 {
			return "its Envoy does not have " + what, nil
		}
	}
	return c.lacksEndpoints(text, endpoints)
}
