package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/l7/api"
)

func newWaypointCmd() *cobra.Command {
	var f waypointFlags
	cmd := &cobra.Command{
		Use:   "waypoint",
		Short: "Make and list waypoints on Kubernetes, ask one what it does",
		Args:  cobra.ArbitraryArgs, // else cobra answers, with exit code 0
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	f.define(cmd)
	list := newWaypointListCmd()
	list.Aliases = append(list.Aliases, "ls")
	cmd.AddCommand(
		newWaypointApplyCmd(), newWaypointDeleteCmd(), list,
		newWaypointStatusCmd(&f), newWaypointConfigCmd(&f), newWaypointStatsCmd(&f),
	)
	return cmd
}

func newWaypointStatsCmd(of *waypointFlags) *cobra.Command {
	var name string
	var f replicaFlags
	cmd := &cobra.Command{
		Use: "stats [REGEXP]", Short: "Print Envoy's counters and gauges that are above zero", Args: atMostOne,
		Long: "Print Envoy's counters and gauges that are above zero: of the only waypoint that is simulated, or of\n" +
			"that of this network namespace; with --waypoint of each replica of one on a Kubernetes cluster.",
		Example: "  duomesh waypoint stats handoff\n  duomesh waypoint stats upstream_rq --waypoint waypoint -n default",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := regexp.Compile(first(args)); err != nil { // Envoy's are RE2, as Go's
				return usagef("REGEXP %s: %w", first(args), err)
			}
			out, question := cmd.OutOrStdout(), askCounters(first(args))
			onKubernetes, err := of.ofCluster(cmd, f, name)
			if err != nil {
				return err
			}
			if onKubernetes {
				all, failed := f.ask(cmd.Context(), name, question)
				printReplicas(out, all, printReplicaCounters)
				return failed
			}
			r, err := of.askOne(cmd.Context(), f, name, question)
			if err == nil {
				printCounters(out, r.Counters)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&name, "waypoint", "", "`NAME` of a waypoint of a Kubernetes cluster")
	f.define(cmd)
	return cmd
}

func printReplicaCounters(out io.Writer, r replica) { printCounters(out, r.Counters) }

func newWaypointConfigCmd(of *waypointFlags) *cobra.Command {
	var changes bool
	var f replicaFlags
	cmd := &cobra.Command{
		Use: "config [NAME]", Short: "Print Envoy's configuration as JSON, or what was changed of istiod's",
		Long: "Print Envoy's configuration as JSON, or what was changed of istiod's: of the waypoint in the\n" +
			"simulated pod NAME, of the only one that is simulated, or of that of this network namespace; or of\n" +
			"waypoint NAME of a Kubernetes cluster, of which it is an array of its replicas.",
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, out, question := first(args), cmd.OutOrStdout(), replicaQuestion(askConfig)
			if changes {
				question = askStatus
			}
			onKubernetes, err := of.ofCluster(cmd, f, name)
			if err != nil {
				return err
			}
			if onKubernetes {
				all, failed := f.ask(cmd.Context(), name, question)
				if changes {
					printReplicas(out, all, printReplicaChanges)
					return failed
				}
				if len(all) == 0 {
					return failed
				}
				return errors.Join(encode(out, "json", all), failed)
			}
			r, err := of.askOne(cmd.Context(), f, name, question)
			if err != nil {
				return err
			}
			if changes {
				printChanges(out, *r.Status)
				return nil
			}
			_, err = out.Write(r.Config)
			return err
		},
	}
	cmd.Flags().BoolVar(&changes, "changes", false, "print how often each kind of change stands in the configuration as it is now, and why")
	f.define(cmd)
	return cmd
}

func printReplicaChanges(out io.Writer, r replica) { printChanges(out, *r.Status) }

func newWaypointStatusCmd(of *waypointFlags) *cobra.Command {
	var output string
	var f replicaFlags
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Say whether it is ready, what it serves, and what was changed of istiod's configuration",
		Long: "Say whether a waypoint is ready, what it serves, and what was changed of istiod's configuration:\n" +
			"those of a simulated cluster that runs, or the one in its pod NAME; else the one of this network\n" +
			"namespace (--address), or with NAME that of a Kubernetes cluster, every replica.",
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" && output != "yaml" {
				return usagef("--output %s: must be table, json or yaml", output)
			}
			name, out := first(args), cmd.OutOrStdout()
			onKubernetes, err := of.ofCluster(cmd, f, name)
			if err != nil {
				return err
			}
			if onKubernetes {
				all, failed := f.ask(cmd.Context(), name, askStatus)
				if output == "table" || len(all) == 0 {
					printReplicas(out, all, printReplicaStatus)
					return failed
				}
				return errors.Join(encode(out, output, all), failed)
			}
			desks, err := of.desks(f.cluster, cmp.Or(name, f.pod))
			if err != nil {
				return err
			}
			return statusOfAll(cmd.Context(), desks, output, out)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml; of a cluster an array of its replicas")
	f.define(cmd)
	return cmd
}

func printReplicaStatus(out io.Writer, r replica) { printWaypoint(out, *r.Status) }

func printWaypoint(out io.Writer, s api.Status) {
	state := "ready"
	if !s.Ready {
		state = "waits for " + s.Waiting
	}
	fmt.Fprintf(out, "waypoint %s: %s\n", s.Waypoint, state)
	fmt.Fprintf(out, "source   %s: %s\n", s.Source.Name, versionsOf(s.Source))
	for line := range strings.Lines(s.Source.Problem) {
		if line = strings.TrimRight(line, "\n "); line != "" {
			fmt.Fprintf(out, "         %s\n", line)
		}
	}
	fmt.Fprintf(out, "envoy    %s, process %d, started again %s, at most %d connections\n",
		s.Envoy.Path, s.Envoy.PID, times(s.Envoy.Restarts), s.Envoy.Connections)
	for _, name := range s.Services {
		fmt.Fprintf(out, "serves   %s\n", name)
	}
	if len(s.Changes) > 0 {
		printChanges(out, s)
	}
}

// versionsOf says what of its source a waypoint's Envoy has. What is refused may be but a
// part of a version of which it has the rest.
func versionsOf(s api.Source) string {
	switch {
	case s.Seen == "":
		return "nothing has come"
	case s.Applied == "":
		return "Envoy has nothing, the newest is " + s.Seen
	case s.Problem != "" && s.Applied == s.Seen:
		return "Envoy has what it takes of version " + s.Seen
	}
	return fmt.Sprintf("Envoy has version %s, the newest is %s", s.Applied, s.Seen)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
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
