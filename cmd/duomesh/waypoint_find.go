package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/netsim"
)

// waypointFlags say which waypoint is asked.
type waypointFlags struct {
	address string
	runDir  string
	cluster string
}

func (f *waypointFlags) define(cmd *cobra.Command) {
	set := cmd.PersistentFlags()
	set.StringVar(&f.address, "address", "", "`ADDRESS` of its admin API: host:port or unix:PATH; when not given, a simulated one that runs, or else "+l7.AdminAddress)
	set.StringVar(&f.runDir, "run-dir", netsim.DefaultRunDir, "`DIR` where simulated clusters say that they live")
	set.StringVar(&f.cluster, "cluster", "", "`NAME` of a simulated cluster; the only one when not given")
}

// asking are these flags in the words of those who ask nodes.
func (f waypointFlags) asking(kube clusterFlags) askFlags {
	return askFlags{admin: f.address, runDir: f.runDir, cluster: f.cluster, kube: kube}
}

// onKubernetes reports whether a waypoint of this name is one of a Kubernetes cluster.
func (f waypointFlags) onKubernetes(kube clusterFlags, name string) (bool, error) {
	if name == "" || f.address != "" || f.cluster != "" {
		return false, nil
	}
	ask := f.asking(kube)
	if ask.simulated() != "" {
		return false, nil
	}
	if kube != (clusterFlags{}) || os.Getenv("KUBECONFIG") != "" {
		return true, nil
	}
	s, err := ask.running()
	return s == nil, err
}

// ofCluster reports whether the replicas of a waypoint of a Kubernetes cluster are asked.
func (f waypointFlags) ofCluster(cmd *cobra.Command, r replicaFlags, name string) (bool, error) {
	is, err := f.onKubernetes(r.cluster, name)
	if err != nil || is {
		return is, err
	}
	if name != "" {
		return false, nil
	}
	ask := f.asking(r.cluster)
	onCluster := r.namespace != "" || r.cluster != (clusterFlags{}) && ask.simulated() == ""
	if !onCluster && r.pod != "" && f.address == "" && f.cluster == "" && os.Getenv("KUBECONFIG") != "" {
		s, err := ask.running()
		if err != nil {
			return false, err
		}
		onCluster = s == nil
	}
	if !onCluster {
		return false, nil
	}
	want := "the NAME"
	if cmd.Flag("waypoint") != nil {
		want = "--waypoint with the NAME"
	}
	return false, usagef("%swant %s of a waypoint of the cluster (duomesh waypoint list)", called(cmd), want)
}

// waypointDesk is a waypoint that can be asked.
type waypointDesk struct {
	pod     string // "" is that of --address or of this network namespace
	address string
	nobody  string // what to say when it does not answer
}

// desks are the waypoints that the flags choose: of a simulated cluster that of the pod
// called name, or all.
func (f waypointFlags) desks(kube clusterFlags, name string) ([]waypointDesk, error) {
	if f.address != "" {
		if name != "" || f.cluster != "" {
			return nil, usagef("--address names one waypoint: NAME and --cluster are for others")
		}
		return []waypointDesk{{address: f.address}}, nil
	}
	s, err := f.asking(kube).running()
	if err != nil {
		return nil, err
	}
	if s == nil {
		if name != "" {
			return nil, usagef("waypoint %s: no simulated cluster is running", name)
		}
		return []waypointDesk{{
			address: l7.AdminAddress, nobody: "no simulated cluster is running, and no waypoint answers here (--address names one, and NAME one on Kubernetes)",
		}}, nil
	}
	return waypointsOf(*s, strings.TrimPrefix(name, "default/")) // the namespace of all simulated pods
}

func waypointsOf(s netsim.State, name string) ([]waypointDesk, error) {
	var desks []waypointDesk
	var names []string
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			if p.Waypoint == "" {
				continue
			}
			names = append(names, p.Name)
			if name == "" || p.Name == name {
				desks = append(desks, waypointDesk{
					pod: p.Name, address: p.Waypoint,
					nobody: fmt.Sprintf("its process does not run (duomesh netsim start --cluster %s starts again what has ended)", s.ID),
				})
			}
		}
	}
	switch {
	case len(names) == 0:
		return nil, usagef("cluster %s has no waypoint", s.ID)
	case len(desks) == 0:
		return nil, usagef("cluster %s has no waypoint pod %q: there are %s", s.ID, name, strings.Join(names, ", "))
	}
	return desks, nil
}

// askOne asks the only waypoint that the flags choose, of a simulated cluster or of this
// network namespace.
func (f waypointFlags) askOne(ctx context.Context, of replicaFlags, name string, question replicaQuestion) (r replica, err error) {
	d, err := f.one(of.cluster, cmp.Or(name, of.pod))
	if err != nil {
		return r, err
	}
	return askWaypoint(ctx, d, func(ctx context.Context, c *api.Client) (replica, error) {
		var r replica
		err := question(ctx, c, &r)
		return r, err
	})
}

// one is the only waypoint that the flags choose.
func (f waypointFlags) one(kube clusterFlags, name string) (waypointDesk, error) {
	desks, err := f.desks(kube, name)
	if err != nil {
		return waypointDesk{}, err
	}
	if len(desks) > 1 {
		var names []string
		for _, d := range desks {
			names = append(names, d.pod)
		}
		return waypointDesk{}, usagef("there are waypoints %s: name one of them", strings.Join(names, ", "))
	}
	return desks[0], nil
}

// askWaypoint asks one waypoint.
func askWaypoint[T any](ctx context.Context, d waypointDesk, question func(context.Context, *api.Client) (T, error)) (T, error) {
	client := api.NewClient(d.address)
	defer client.Close()
	answer, err := question(ctx, client)
	if err == nil {
		return answer, nil
	}
	if d.nobody != "" && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)) {
		err = fmt.Errorf("%s: %w", d.nobody, err)
	}
	if d.pod != "" {
		err = fmt.Errorf("waypoint %s: %w", d.pod, err)
	}
	return answer, err
}

// statusOfAll prints what each waypoint says of itself; one that is down does not hide the
// others.
func statusOfAll(ctx context.Context, desks []waypointDesk, form string, out io.Writer) (failed error) {
	var all []api.Status
	for i, d := range desks {
		s, err := askWaypoint(ctx, d, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx, "") })
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if form != "table" {
			all = append(all, s)
			continue
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		if d.pod != "" {
			fmt.Fprintf(out, "pod %s\n", d.pod)
		}
		printWaypoint(out, s)
	}
	if form == "table" || len(all) == 0 {
		return failed
	}
	return errors.Join(printAnswers(out, form, all, []desk{{among: len(desks) > 1}}), failed)
}
