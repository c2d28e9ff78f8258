package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/bench/plan"
)

func newBenchListCmd() *cobra.Command {
	f := benchFlags{plan: plan.Default(), tools: benchTools()}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Say what can be compared, and what this machine lacks for it",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("bench list: no arguments are taken")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.list(cmd.OutOrStdout()) },
	}
	f.registerZtunnel(cmd)
	return cmd
}

func (f *benchFlags) list(out io.Writer) error {
	all := plan.Plan{Variants: plan.Variants()}
	here, err := f.without(all)
	if err != nil {
		return err
	}
	t, modes := plainTable(), plainTable()
	t.AppendHeader(table.Row{"variant", "between the nodes", "in", "here", "way"})
	for _, v := range plan.Variants() {
		state, err := f.ztunnelState(v)
		if err != nil {
			return err
		}
		state = cmp.Or(state, "can run")
		if why, absent := here.WhyAbsent(v); absent {
			state = "NOT RUN: " + why
		}
		t.AppendRow(table.Row{v, v.Traits().Security, strings.Join(f.runsOf(v), ", "), state, v.Traits().Way})
	}
	modes.AppendHeader(table.Row{"mode", "load"})
	for _, m := range plan.Modes() {
		modes.AppendRow(table.Row{m, m.Words(f.plan.Load)})
	}
	_, err = fmt.Fprintf(out, "%s\n\n%s\n", t.Render(), modes.Render())
	return err
}

func plainTable() table.Writer {
	t := table.NewWriter()
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	return t
}

// runsOf names the comparisons that a variant is in.
func (f *benchFlags) runsOf(v plan.Variant) []string {
	def := f.plan.Variants
	if !f.hasZtunnel() {
		def = f.plan.WithStandIns().Variants
	}
	var runs []string
	for _, r := range []struct {
		name     string
		variants []plan.Variant
	}{{"bench", def}, {"bench --claims", f.plan.Claims().Variants}, {"bench --full", f.plan.Full().Variants}} {
		if slices.Contains(r.variants, v) {
			runs = append(runs, r.name)
		}
	}
	return runs
}
