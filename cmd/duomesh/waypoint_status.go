package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// replicaStatus asks every replica of a waypoint on a cluster, by a forwarded port.
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
	for i := range pods {
		if err := oneReplica(ctx, c, &pods[i], output, out); err != nil {
			return err
		}
	}
	return nil
}

func oneReplica(ctx context.Context, c *cluster.Client, p *corev1.Pod, output string, out io.Writer) error {
	if why := waiting(p); why != "" && p.Status.Phase != corev1.PodRunning {
		fmt.Fprintf(out, "pod %s on node %s: %s\n", p.Name, p.Spec.NodeName, why)
		return nil
	}
	port, err := netip.ParseAddrPort(l7.AdminAddress)
	if err != nil {
		return err
	}
	address, stop, err := c.Forward(ctx, p.Namespace, p.Name, port.Port())
	if err != nil {
		return err
	}
	defer stop()
	client := api.NewClient(address)
	defer client.Close()
	s, err := client.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("pod %s (is its image duomesh-waypoint?): %w", p.Name, err)
	}
	if output == "json" {
		return json.NewEncoder(out).Encode(s)
	}
	fmt.Fprintf(out, "pod %s on node %s\n", p.Name, p.Spec.NodeName)
	printWaypoint(out, s)
	return nil
}
