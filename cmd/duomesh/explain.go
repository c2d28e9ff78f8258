package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

func newExplainCmd() *cobra.Command {
	var f askFlags
	var from, to, protocol string
	cmd := &cobra.Command{
		Use:   "explain --from POD --to ADDRESS:PORT",
		Short: "Say where a connection of a pod goes, and why",
		Long: "Say where a connection of a pod goes, and why: what the declared state says, whether the\n" +
			"kernel's maps have it, and how often connections of the node ended so. It asks a running\n" +
			"cluster (duomesh netsim up), or the agent of this node.",
		Example: "  duomesh explain --from client --to 10.96.0.10:80\n  duomesh explain --kubeconfig ~/.kube/config --from default/web-0 --to fortio.default:80",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return usagef("explain: --from POD and --to ADDRESS:PORT are needed")
			}
			if cluster, pod, both := strings.Cut(from, "/"); both && f.admin == "" && f.cluster == "" && f.isCluster(cluster) {
				f.cluster, from = cluster, pod
			}
			to, err := f.resolve(cmd.Context(), to)
			if err != nil {
				return err
			}
			desks, err := f.desks(cmd.Context(), from)
			if err != nil {
				return err
			}
			all, asked, failed := askAll(cmd.Context(), desks, func(ctx context.Context, c *api.Client) (api.Explanation, error) {
				return c.Explain(ctx, from, to, protocol)
			})
			if len(all) == 0 {
				return failed
			}
			if f.output != "table" {
				return errors.Join(printAnswers(cmd.OutOrStdout(), f.output, all, asked), failed)
			}
			for _, e := range all {
				printExplanation(cmd.OutOrStdout(), e)
			}
			return failed
		},
	}
	f.define(cmd)
	cmd.Flags().StringVar(&from, "from", "", "`POD` that connects: NAME, NAMESPACE/NAME or CLUSTER/NAME")
	cmd.Flags().StringVar(&to, "to", "", "`ADDRESS:PORT` that it asks for; on Kubernetes also SERVICE.NAMESPACE:PORT")
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp or udp")
	return cmd
}

// isCluster reports whether a running cluster has the name; what cannot be read
// is said when the cluster is looked for.
func (f askFlags) isCluster(name string) bool {
	f.cluster = name
	s, err := f.running()
	return err == nil && s != nil
}

func printExplanation(out io.Writer, e api.Explanation) {
	exit := e.Exit
	if exit == "" {
		exit = "not known"
	}
	fmt.Fprintf(out, "%s → %s/%s on node %s: %s\n", e.From, e.To, e.Protocol, e.Node, exit)
	for _, sentence := range e.Why {
		fmt.Fprintf(out, "  %s\n", sentence)
	}
	if len(e.Targets) > 0 {
		t := newTable(out, "target", "workload", "weight", "share")
		for _, x := range e.Targets {
			t.AppendRow(table.Row{x.Address, x.Workload, x.Weight, percent(x.Share)})
		}
		t.Render()
	}
	printDifferences(out, e.Differences)
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", share*100) }

func printDifferences(out io.Writer, all []api.Difference) {
	const most = 50
	for i, d := range all {
		if i == most {
			fmt.Fprintf(out, "and %d more differences\n", len(all)-most)
			return
		}
		fmt.Fprintf(out, "different: map %s, entry %s: applied %s, the kernel has %s\n",
			d.Map, d.Entry, orNothing(d.Want), orNothing(d.Have))
	}
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
