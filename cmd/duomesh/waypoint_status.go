package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// replica is what one pod of a waypoint says; Problem is why it says nothing.
type replica struct {
	Pod     string      `json:"pod"`
	Node    string      `json:"node"`
	Problem string      `json:"problem,omitempty"`
	Status  *api.Status `json:"status,omitempty"`
}

// replicaStatus asks every replica of a waypoint on a cluster, by a forwarded port. One
// that does not answer does not hide the others.
func replicaStatus(ctx context.Context, f gatewayFlags, name, output string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c, err := f.open(ctx)
	if err != nil {
		return err
	}
	if _, err := getGateway(ctx, c, f.namespace, name); err != nil {
		return err
	}
	pods, err := waypointPods(ctx, c, f.namespace, name)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return fmt.Errorf("waypoint %s/%s has no pod", f.namespace, name)
	}
	all, failed := askReplicas(ctx, c, pods)
	return errors.Join(printReplicas(out, output, all), failed)
}

func askReplicas(ctx context.Context, c *cluster.Client, pods []corev1.Pod) (all []replica, failed error) {
	for i := range pods {
		p := &pods[i]
		r := replica{Pod: p.Name, Node: p.Spec.NodeName}
		if why := waiting(p); why != "" && p.Status.Phase != corev1.PodRunning {
			r.Problem = why
		} else if s, err := askReplica(ctx, c, p); err != nil {
			err = fmt.Errorf("pod %s (is its image %s duomesh-waypoint?): %w", p.Name, proxyImage(p), err)
			r.Problem, failed = err.Error(), errors.Join(failed, err)
		} else {
			r.Status = &s
		}
		all = append(all, r)
	}
	return all, failed
}

// askReplicaTime bounds how long one replica may take to answer.
const askReplicaTime = 10 * time.Second

func askReplica(ctx context.Context, c *cluster.Client, p *corev1.Pod) (s api.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, askReplicaTime)
	defer cancel()
	port, err := netip.ParseAddrPort(l7.AdminAddress)
	if err != nil {
		return s, err
	}
	address, stop, err := c.Forward(ctx, p.Namespace, p.Name, port.Port())
	if err != nil {
		return s, err
	}
	defer stop()
	client := api.NewClient(address)
	defer client.Close()
	return client.Status(ctx, "")
}

// printReplicas writes an array, however many there are, or a text for people.
func printReplicas(out io.Writer, output string, all []replica) error {
	if output != "table" {
		return encode(out, output, all)
	}
	for _, r := range all {
		fmt.Fprintf(out, "pod %s on node %s\n", r.Pod, r.Node)
		if r.Status == nil {
			fmt.Fprintf(out, "%s\n", r.Problem)
		} else {
			printWaypoint(out, *r.Status)
		}
	}
	return nil
}
