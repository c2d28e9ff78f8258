package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// askFlags say whose engine is asked.
type askFlags struct {
	admin   string
	runDir  string
	cluster string
	node    string
	output  string
	kube    clusterFlags
	system  string
}

func (f *askFlags) define(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.admin, "admin", "", "`ADDRESS` of an agent's admin API; when not given, a running cluster, or else "+api.AdminAddress)
	set.StringVar(&f.runDir, "run-dir", netsim.DefaultRunDir, "`DIR` where clusters say that they live")
	set.StringVar(&f.cluster, "cluster", "", "`NAME` of a running cluster; the only one when not given")
	set.StringVar(&f.node, "node", "", "`NAME` of one node of the cluster")
	set.StringVarP(&f.output, "output", "o", "table", "table, json or yaml")
	f.kube.define(cmd)
	set.StringVar(&f.system, "system-namespace", "duomesh-system", "`NAMESPACE` of the agents on Kubernetes")
}

// askTime bounds a question to all nodes.
const askTime = 30 * time.Second

// desk is an engine that can be asked.
type desk struct {
	node  string
	place api.Place
	// among is set when all of a cluster's are asked, of which this is one.
	among bool
	// nobody is what to say when it does not answer.
	nobody string
	// reach, where set, opens the way to it, which stop ends.
	reach func(context.Context) (place api.Place, stop func(), err error)
}

// desks are the engines that the flags choose. pod narrows them to its node.
func (f askFlags) desks(ctx context.Context, pod string) ([]desk, error) {
	if f.output != "table" && f.output != "json" && f.output != "yaml" {
		return nil, usagef("--output %s: must be table, json or yaml", f.output)
	}
	if f.onKubernetes() {
		return f.agents(ctx, pod)
	}
	if f.admin != "" {
		if f.cluster != "" || f.node != "" {
			return nil, usagef("--admin names one agent: --cluster and --node are for running clusters")
		}
		return []desk{{place: api.Place{Address: f.admin}}}, nil
	}
	s, err := f.running()
	if err != nil || s == nil {
		return []desk{{place: api.Place{Address: api.AdminAddress}, nobody: "no cluster is running, and no agent answers"}}, err
	}
	node := f.node
	if pod != "" {
		p, err := s.Pod(strings.TrimPrefix(pod, "default/")) // the namespace of all simulated pods
		if err != nil {
			return nil, usageError{err}
		}
		if node != "" && node != p.Node {
			return nil, usagef("pod %s is on node %s, not on %s", pod, p.Node, node)
		}
		node = p.Node
	}
	return desksOf(*s, node)
}

// running is the cluster that is asked, nil when none runs and none is named.
func (f askFlags) running() (*netsim.State, error) {
	all, err := netsim.Clusters(f.runDir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, usagef("root is needed to look into a cluster: run it with sudo")
	}
	if err != nil {
		return nil, err
	}
	if len(all) == 0 && f.cluster == "" && f.node == "" {
		return nil, nil
	}
	s, err := netsim.Find(f.runDir, cmp.Or(f.cluster, f.simulated()))
	if err != nil {
		return nil, usageError{err}
	}
	return &s, nil
}

func desksOf(s netsim.State, node string) ([]desk, error) {
	var desks []desk
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
		if n.Admin != nil && (node == "" || n.Name == node) {
			desks = append(desks, desk{node: n.Name, place: *n.Admin, among: node == ""})
		}
	}
	switch {
	case s.Mesh != scenario.Duomesh:
		return nil, usagef("cluster %s has mesh %s: there is no engine to ask", s.ID, s.Mesh)
	case len(desks) == 0:
		return nil, usagef("cluster %s has no node %q: there are %s", s.ID, node, strings.Join(names, ", "))
	}
	return desks, nil
}

// together is how many engines, or replicas of a waypoint, are asked at a time.
const together = 16

// askAll asks every engine the same. It returns what those said that answer, and which
// they are, in the order of desks: one that is down neither hides the others nor lets them
// wait, and the error names it.
func askAll[T any](ctx context.Context, desks []desk, question func(context.Context, *api.Client) (T, error)) (all []T, from []desk, failed error) {
	answers, errs := make([]T, len(desks)), make([]error, len(desks))
	var g errgroup.Group
	g.SetLimit(together)
	for i, d := range desks {
		g.Go(func() error {
			answers[i], errs[i] = askOne(ctx, d, question)
			return nil // each is told by itself
		})
	}
	_ = g.Wait() // says nothing
	for i, d := range desks {
		answer, err := answers[i], errs[i]
		var bad api.BadRequestError
		switch {
		case errors.As(err, &bad):
			return nil, nil, usageError{bad}
		case err == nil:
			all, from = append(all, answer), append(from, d)
			continue
		case d.nobody != "":
			err = fmt.Errorf("%s: %w", d.nobody, err)
		case d.node != "" && errors.Is(err, syscall.ECONNREFUSED):
			err = fmt.Errorf("node %s: its agent does not run; what it has pinned goes on (duomesh netsim start %s starts it again): %w", d.node, d.node, err)
		case d.node != "":
			err = fmt.Errorf("node %s: %w", d.node, err)
		}
		failed = errors.Join(failed, err)
	}
	return all, from, failed
}

func askOne[T any](ctx context.Context, d desk, question func(context.Context, *api.Client) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if d.reach != nil {
		place, stop, err := d.reach(ctx)
		if err != nil {
			return answer, err
		}
		defer stop()
		d.place = place
	}
	c := api.NewClient(d.place)
	answer, err = question(ctx, c)
	return answer, errors.Join(err, c.Close())
}

// printAnswers writes the answer of one engine that was asked for as it came, and those of
// a cluster as an array, as JSON or YAML: how many answer does not change the form.
func printAnswers[T any](out io.Writer, form string, all []T, from []desk) error {
	var what any = all
	if len(all) == 1 && !from[0].among {
		what = all[0]
	}
	return encode(out, form, what)
}

// encode writes what programs read: JSON, indented, or YAML.
func encode(out io.Writer, form string, what any) error {
	if form == "yaml" {
		text, err := yaml.Marshal(what)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(what)
}

// heading stands above the tables of one node.
func heading(out io.Writer, desks []desk, i int) {
	if desks[i].node == "" {
		return
	}
	if i > 0 {
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "node %s\n", desks[i].node)
}
