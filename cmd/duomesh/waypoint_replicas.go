package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// replica is what one pod of a waypoint says; Problem is why it says nothing.
type replica struct {
	Pod     string `json:"pod"`
	Node    string `json:"node"`
	Problem string `json:"problem,omitempty"`
	// What was asked for is set.
	Status   *api.Status       `json:"status,omitempty"`
	Config   json.RawMessage   `json:"config,omitempty"`
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// replicaQuestion asks one and keeps its answer.
type replicaQuestion func(context.Context, *api.Client, *replica) error

func askStatus(ctx context.Context, c *api.Client, r *replica) error {
	s, err := c.Status(ctx, "")
	if err == nil {
		r.Status = &s
	}
	return err
}

func askConfig(ctx context.Context, c *api.Client, r *replica) (err error) {
	r.Config, err = c.Get(ctx, "/config")
	return err
}

func askCounters(pattern string) replicaQuestion {
	return func(ctx context.Context, c *api.Client, r *replica) (err error) {
		r.Counters, err = c.Counters(ctx, pattern)
		return err
	}
}

// replicaFlags say which replicas of a waypoint on a cluster are asked.
type replicaFlags struct {
	gatewayFlags
	pod string
}

func (f *replicaFlags) define(cmd *cobra.Command) {
	f.gatewayFlags.define(cmd)
	cmd.Flags().StringVar(&f.pod, "pod", "", "`NAME` of one replica of a waypoint on a cluster, all when not given; or of a simulated waypoint's pod")
}

// ask asks the replicas of a waypoint, each by a forwarded port. One that does not answer
// does not hide the others; the error names it.
func (f replicaFlags) ask(ctx context.Context, name string, question replicaQuestion) ([]replica, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := f.pods(ctx, c, name)
	if err != nil {
		return nil, err
	}
	return askReplicas(ctx, pods, forwarded(c), question)
}

// pods are those of a waypoint, or the one that is named.
func (f replicaFlags) pods(ctx context.Context, c *cluster.Client, name string) ([]corev1.Pod, error) {
	if _, err := getGateway(ctx, c, f.namespace, name); err != nil {
		return nil, err
	}
	pods, err := waypointPods(ctx, c, f.namespace, name)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("waypoint %s/%s has no pod", f.namespace, name)
	}
	if f.pod == "" {
		return pods, nil
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == f.pod })
	if i < 0 {
		return nil, usagef("--pod %s: waypoint %s/%s has pods %s", f.pod, f.namespace, name, strings.Join(podNames(pods), ", "))
	}
	return pods[i : i+1], nil
}

func podNames(pods []corev1.Pod) []string {
	var names []string
	for i := range pods {
		names = append(names, pods[i].Name)
	}
	return names
}

// reach opens a way to the admin API of a waypoint's pod, which stop ends.
type reach func(context.Context, *corev1.Pod) (address string, stop func(), err error)

// forwarded is the way by a forwarded port.
func forwarded(c *cluster.Client) reach {
	return func(ctx context.Context, p *corev1.Pod) (string, func(), error) {
		port, err := netip.ParseAddrPort(l7.AdminAddress)
		if err != nil {
			return "", nil, err
		}
		return c.Forward(ctx, p.Namespace, p.Name, port.Port())
	}
}

// askReplicas asks all, many at a time, and returns what they say in the order of pods.
func askReplicas(ctx context.Context, pods []corev1.Pod, way reach, question replicaQuestion) ([]replica, error) {
	all, errs := make([]replica, len(pods)), make([]error, len(pods))
	var g errgroup.Group
	g.SetLimit(together)
	for i := range pods {
		g.Go(func() error {
			p, r := &pods[i], &all[i]
			r.Pod, r.Node = p.Name, p.Spec.NodeName
			if why := waiting(p); why != "" && p.Status.Phase != corev1.PodRunning {
				r.Problem = why
			} else if err := askReplica(ctx, p, way, r, question); err != nil {
				errs[i] = fmt.Errorf("pod %s (is its image %s duomesh-waypoint?): %w", p.Name, proxyImage(p), err)
				r.Problem = errs[i].Error()
			}
			return nil // each is told by itself
		})
	}
	_ = g.Wait() // says nothing
	return all, errors.Join(errs...)
}

// askReplicaTime bounds how long one replica may take to answer.
const askReplicaTime = 10 * time.Second

func askReplica(ctx context.Context, p *corev1.Pod, way reach, r *replica, question replicaQuestion) error {
	ctx, cancel := context.WithTimeout(ctx, askReplicaTime)
	defer cancel()
	address, stop, err := way(ctx, p)
	if err != nil {
		return err
	}
	defer stop()
	client := api.NewClient(address)
	defer client.Close()
	return question(ctx, client, r)
}

// printReplicas writes for people what each says.
func printReplicas(out io.Writer, all []replica, print func(io.Writer, replica)) {
	for i, r := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "pod %s on node %s\n", r.Pod, r.Node)
		if r.Problem != "" {
			fmt.Fprintln(out, r.Problem)
			continue
		}
		print(out, r)
	}
}

func printCounters(out io.Writer, all map[string]uint64) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] > 0 {
			fmt.Fprintf(out, "%s: %d\n", name, all[name])
		}
	}
}
