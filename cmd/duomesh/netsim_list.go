package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// clusterList is the machine form of ls.
type clusterList struct {
	Schema   string         `json:"schema"`
	Version  int            `json:"version"`
	Clusters []netsim.State `json:"clusters"`
}

func newNetsimListCmd(runDir *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls [CLUSTER]",
		Short: "List running clusters, or the pods and services of one",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usagef("--output %s: must be table or json", output)
			}
			all, err := chosen(*runDir, first(args), len(args) == 0)
			if errors.Is(err, fs.ErrPermission) {
				return usagef("root is needed to look into a cluster: run it with sudo")
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case output == "json":
				return printJSON(out, all)
			case len(args) == 1:
				printCluster(out, all[0])
				printKube(out, all[0])
				printEnded(cmd.Context(), out, *runDir, all[0].ID)
			default:
				printClusters(out, all)
				return printDead(out, *runDir)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printJSON(out io.Writer, all []netsim.State) error {
	if all == nil {
		all = []netsim.State{}
	}
	return encode(out, "json", clusterList{Schema: "duomesh/netsim-list", Version: 1, Clusters: all})
}

func newTable(out io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(header)
	return t
}

func printClusters(out io.Writer, all []netsim.State) {
	if len(all) == 0 {
		fmt.Fprintln(out, "no cluster is running")
		return
	}
	t := newTable(out, "cluster", "pid", "age", "mesh", "nodes", "pods", "services")
	for _, s := range all {
		pods := 0
		for _, n := range s.Nodes {
			pods += len(n.Pods)
		}
		age := time.Since(s.Started).Round(time.Second)
		t.AppendRow(table.Row{s.ID, s.PID, age, s.Mesh, len(s.Nodes), pods, len(s.Services)})
	}
	t.Render()
}

// printDead names what a killed cluster left.
func printDead(out io.Writer, runDir string) error {
	dead, err := netsim.Dead(runDir)
	for _, id := range dead {
		fmt.Fprintf(out, "dead: %s (duomesh netsim down removes what it left)\n", id)
	}
	return err
}

// served lists the ports of a pod's server, those of UDP as such.
func served(p netsim.PodState) string {
	text := listed(p.Serve)
	for _, port := range p.ServeUDP {
		text = strings.TrimSpace(fmt.Sprintf("%s %d/UDP", text, port))
	}
	return text
}

// written is an address, or nothing where there is none.
func written(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func printCluster(out io.Writer, s netsim.State) {
	t := newTable(out, "node", "pod", "ipv4", "ipv6", "serves", "managed")
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			t.AppendRow(table.Row{n.Name, p.Name, written(p.IPv4), written(p.IPv6), served(p), yes(p.Managed)})
		}
	}
	t.Render()
	if len(s.Services) == 0 {
		return
	}
	t = newTable(out, "service", "address", "ports", "endpoints (weight)")
	for _, svc := range s.Services {
		var ports, endpoints []string
		for _, p := range svc.Ports {
			text := fmt.Sprintf("%d→%d", p.Port, p.Target)
			if p.TargetName != "" {
				text = fmt.Sprintf("%d→%s", p.Port, p.TargetName)
			}
			if p.Protocol == scenario.UDP {
				text += "/UDP"
			}
			ports = append(ports, text)
		}
		for _, e := range svc.Endpoints {
			endpoints = append(endpoints, fmt.Sprintf("%s (%d)", e.Pod, e.Weight))
		}
		t.AppendRow(table.Row{svc.Name, listed(svc.Addresses), strings.Join(ports, " "), strings.Join(endpoints, " ")})
	}
	t.Render()
}

func listed[T any](values []T) string {
	var words []string
	for _, v := range values {
		words = append(words, fmt.Sprint(v))
	}
	return strings.Join(words, " ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
