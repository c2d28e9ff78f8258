package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

func newWaypointCmd() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "waypoint",
		Short: "Make and list waypoints on Kubernetes, ask one what it does",
		Args:  noArgs,
	}
	cmd.PersistentFlags().StringVar(&address, "address", l7.AdminAddress,
		"`ADDRESS` of its admin API: host:port, or unix:PATH (of a simulated one: admin.sock in its directory below /run/duomesh)")
	cmd.AddCommand(
		newWaypointApplyCmd(), newWaypointDeleteCmd(), newWaypointListCmd(),
		newWaypointStatusCmd(&address),
		newWaypointConfigCmd(&address),
		&cobra.Command{
			Use: "stats [REGEXP]", Short: "Print Envoy's counters and gauges that are above zero", Args: atMostOne,
			RunE: func(cmd *cobra.Command, args []string) error {
				client := api.NewClient(address)
				defer client.Close()
				all, err := client.Counters(cmd.Context(), first(args))
				if err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(all)) {
					if all[name] > 0 {
						fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", name, all[name])
					}
				}
				return nil
			},
		},
	)
	return cmd
}

func newWaypointConfigCmd(address *string) *cobra.Command {
	var changes bool
	cmd := &cobra.Command{
		Use: "config", Short: "Print Envoy's configuration as JSON, or what was changed of istiod's", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := api.NewClient(*address)
			defer client.Close()
			if changes {
				s, err := client.Status(cmd.Context(), "")
				if err != nil {
					return err
				}
				printChanges(cmd.OutOrStdout(), s)
				return nil
			}
			body, err := client.Get(cmd.Context(), "/config")
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(body)
			return err
		},
	}
	cmd.Flags().BoolVar(&changes, "changes", false, "print how often each kind of change stands in the configuration as it is now, and why")
	return cmd
}

func newWaypointStatusCmd(address *string) *cobra.Command {
	var output string
	var f gatewayFlags
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Say whether it is ready, what it serves, and what was changed of istiod's configuration",
		Long: "Say whether a waypoint is ready, what it serves, and what was changed of istiod's configuration:\n" +
			"the one of this network namespace (--address), or with NAME that of a Kubernetes cluster, every replica.",
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" && output != "yaml" {
				return usagef("--output %s: must be table, json or yaml", output)
			}
			if name := first(args); name != "" {
				return replicaStatus(cmd.Context(), f, name, output, cmd.OutOrStdout())
			}
			if f.cluster.where != (cluster.Where{}) || f.namespace != "" {
				return usagef("%swant the NAME of a waypoint of the cluster (duomesh waypoint list)", called(cmd))
			}
			client := api.NewClient(*address)
			defer client.Close()
			s, err := client.Status(cmd.Context(), "")
			if err != nil {
				return err
			}
			if output != "table" {
				return printAnswers(cmd.OutOrStdout(), output, []api.Status{s}, []desk{{}})
			}
			printWaypoint(cmd.OutOrStdout(), s)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml; of a cluster an array of its replicas")
	f.define(cmd)
	return cmd
}

func printWaypoint(out io.Writer, s api.Status) {
	state := "ready"
	if !s.Ready {
		state = "waits for " + s.Waiting
	}
	fmt.Fprintf(out, "waypoint %s: %s\n", s.Waypoint, state)
	fmt.Fprintf(out, "source   %s: Envoy has version %s, the newest is %s\n", s.Source.Name, s.Source.Applied, s.Source.Seen)
	if s.Source.Problem != "" {
		fmt.Fprintf(out, "         %s\n", s.Source.Problem)
	}
	fmt.Fprintf(out, "envoy    %s, process %d, started again %d times, at most %d connections\n",
		s.Envoy.Path, s.Envoy.PID, s.Envoy.Restarts, s.Envoy.Connections)
	for _, name := range s.Services {
		fmt.Fprintf(out, "serves   %s\n", name)
	}
	if len(s.Changes) > 0 {
		printChanges(out, s)
	}
}

// printChanges says what was changed of what istiod sent.
func printChanges(out io.Writer, s api.Status) {
	if len(s.Changes) == 0 {
		fmt.Fprintf(out, "nothing is changed: the configuration is from %s\n", s.Source.Name)
		return
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"changed of istiod's configuration", "times", "why"})
	for _, c := range s.Changes {
		t.AppendRow(table.Row{c.Kind, c.Count, c.Why})
	}
	t.Render()
}
