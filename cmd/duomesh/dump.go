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

func newDumpCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump services|workloads|policies|endpoints|maps",
		Short: "Print what an engine has: services, workloads, policies, where they lead, how full its maps are",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(
		newDumpOne("services", "Print the services that were applied", (*api.Client).Services, printServices),
		newDumpOne("workloads", "Print the workloads that were applied, and the policies that name them", (*api.Client).Workloads, printWorkloads),
		newDumpOne("policies", "Print the policies that were received", (*api.Client).Policies, printPolicies),
		newDumpOne("endpoints", "Print where each address and port leads from a node", (*api.Client).Endpoints, printEndpoints),
		newDumpOne("maps", "Print use and limit of the kernel's maps, and what differs from what was applied", askMaps, printMaps),
	)
	return cmd
}

func newDumpOne[T any](
	what, short string, question func(*api.Client, context.Context) (T, error), print func(io.Writer, T),
) *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use: what, Short: short, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			desks, err := f.desks(cmd.Context(), "")
			if err != nil {
				return err
			}
			all, from, failed := askAll(cmd.Context(), desks, func(ctx context.Context, c *api.Client) (T, error) {
				return question(c, ctx)
			})
			if len(all) == 0 {
				return failed
			}
			out := cmd.OutOrStdout()
			if f.output != "table" {
				return errors.Join(printAnswers(out, f.output, all, from), failed)
			}
			for i, answer := range all {
				heading(out, from, i)
				print(out, answer)
			}
			return failed
		},
	}
	f.define(cmd)
	return cmd
}

// dumpedMaps is the kernel's side: how full it is, and where it differs.
type dumpedMaps struct {
	api.Maps
	Differences []api.Difference `json:"differences"`
}

func askMaps(c *api.Client, ctx context.Context) (dumpedMaps, error) {
	m, err := c.Maps(ctx)
	if err != nil {
		return dumpedMaps{}, err
	}
	s, err := c.Status(ctx, "")
	if err != nil || s.Applied.Generation == 0 {
		return dumpedMaps{Maps: m}, err // nothing to compare with
	}
	a, err := c.Audit(ctx)
	return dumpedMaps{m, a.Differences}, err
}

func printServices(out io.Writer, s api.Services) {
	t := newTable(out, "service", "address", "ports", "endpoints", "waypoint")
	for _, svc := range s.Services {
		var ports []string
		for _, p := range svc.Ports {
			target := "each its own"
			if p.Target != 0 {
				target = fmt.Sprint(p.Target)
			}
			ports = append(ports, fmt.Sprintf("%d/%s→%s", p.Port, p.Protocol, target))
		}
		t.AppendRow(table.Row{svc.Name, listed(svc.Addresses), strings.Join(ports, " "), svc.Endpoints, svc.Waypoint})
	}
	t.Render()
}

func printEndpoints(out io.Writer, e api.Endpoints) {
	t := newTable(out, "service", "asked", "exit", "target", "workload", "share")
	for _, f := range e.Frontends {
		if len(f.Targets) == 0 {
			t.AppendRow(table.Row{f.Service, f.Frontend, f.Exit, "", "", ""})
		}
		for _, x := range f.Targets {
			t.AppendRow(table.Row{f.Service, f.Frontend, f.Exit, x.Address, x.Workload, percent(x.Share)})
		}
	}
	t.Render()
}

func printMaps(out io.Writer, m dumpedMaps) {
	t := newTable(out, "map", "used", "limit", "memory (bytes)")
	for _, x := range m.Maps.Maps {
		used, limit := "", ""
		if x.Limit > 0 {
			used, limit = fmt.Sprint(x.Used), fmt.Sprint(x.Limit)
		}
		t.AppendRow(table.Row{x.Name, used, limit, x.Bytes})
	}
	t.Render()
	printDifferences(out, m.Differences)
}
