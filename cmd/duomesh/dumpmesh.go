package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

func printWorkloads(out io.Writer, list api.Workloads) {
	t := newTable(out, "workload", "address", "node", "weight", "state", "waypoint", "policies, NOT ENFORCED")
	for _, w := range list.Workloads {
		address := listed(w.Addresses)
		if w.Hostname != "" {
			address = w.Hostname + ": " + address
		}
		t.AppendRow(table.Row{w.Name, address, w.Node, w.Weight, workloadState(w), w.Waypoint, strings.Join(w.Unenforced, ", ")})
	}
	t.Render()
}

func workloadState(w api.Workload) string {
	var all []string
	if !w.Healthy {
		all = append(all, "not ready")
	}
	if w.Gateway {
		all = append(all, "waypoint")
	}
	if w.Refused {
		all = append(all, "refused")
	}
	return strings.Join(all, ", ")
}

func printPolicies(out io.Writer, list api.Policies) {
	const most = 5
	t := newTable(out, "policy", "action", "scope", "state", "workloads", "rules")
	for _, p := range list.Policies {
		state := "NOT ENFORCED"
		if p.DryRun {
			state = "dry run"
		}
		names := strings.Join(p.Workloads[:min(most, len(p.Workloads))], "\n")
		if more := len(p.Workloads) - most; more > 0 {
			names += fmt.Sprintf("\nand %d more", more)
		}
		t.AppendRow(table.Row{withOrigin(p.Name, p.Origin), p.Action, p.Scope, state, names, strings.Join(p.Rules, "\n")})
	}
	t.Render()
}
