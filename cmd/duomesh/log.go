package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/internal/cluster"
)

type logFlags struct {
	cluster  clusterFlags
	system   string
	node     string
	follow   bool
	previous bool
	lines    int64
}

func newLogCmd() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use: "log", Short: "Print what the agents of a Kubernetes cluster have logged, each line with its node", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.cluster.define(cmd)
	set := cmd.Flags()
	set.StringVar(&f.system, "system-namespace", "duomesh-system", "`NAMESPACE` of the agents")
	set.StringVar(&f.node, "node", "", "`NAME` of one node")
	set.BoolVarP(&f.follow, "follow", "f", false, "go on until interrupted")
	set.BoolVar(&f.previous, "previous", false, "of the container before the one that runs")
	set.Int64Var(&f.lines, "tail", 100, "the last `N` lines of each; -1 is all")
	return cmd
}

func (f logFlags) run(ctx context.Context, out io.Writer) error {
	c, err := f.cluster.open(ctx)
	if err != nil {
		return err
	}
	pods, err := agentPods(ctx, c, f.system)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	some := false
	for _, p := range pods {
		if f.node != "" && p.Spec.NodeName != f.node {
			continue
		}
		some = true
		g.Go(func() error { return f.copy(ctx, c, &p, &mu, out) })
	}
	if !some {
		return fmt.Errorf("no agent runs in namespace %s on node %q of this cluster: duomesh install puts them there", f.system, f.node)
	}
	err = g.Wait()
	if ctx.Err() != nil && f.follow {
		return nil
	}
	return err
}

func (f logFlags) copy(ctx context.Context, c *cluster.Client, p *corev1.Pod, mu *sync.Mutex, out io.Writer) error {
	o := &corev1.PodLogOptions{Follow: f.follow, Previous: f.previous}
	if f.lines >= 0 {
		o.TailLines = &f.lines
	}
	in, err := c.CoreV1().Pods(p.Namespace).GetLogs(p.Name, o).Stream(ctx)
	if err != nil {
		return fmt.Errorf("log of the agent of node %s: %w", p.Spec.NodeName, err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		mu.Lock()
		_, err := fmt.Fprintf(out, "%s: %s\n", p.Spec.NodeName, lines.Text())
		mu.Unlock()
		if err != nil {
			return err
		}
	}
	return lines.Err()
}
