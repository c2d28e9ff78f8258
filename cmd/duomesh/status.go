package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/l4"
)

func newStatusCmd() *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the nodes of a running cluster are, or the agent of this node",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			desks, err := f.desks(cmd.Context(), "")
			if err != nil {
				return err
			}
			all, from, failed := askAll(cmd.Context(), desks, func(ctx context.Context, c *api.Client) (api.Status, error) {
				return c.Status(ctx, "")
			})
			if len(all) == 0 {
				return failed
			}
			if f.output != "table" {
				return errors.Join(printAnswers(cmd.OutOrStdout(), f.output, all, from), failed)
			}
			for i, s := range all {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				printStatus(cmd.OutOrStdout(), s)
			}
			return failed
		},
	}
	f.define(cmd)
	return cmd
}

func printStatus(out io.Writer, s api.Status) {
	t := newTable(out, "node "+s.Node, "")
	say := func(what string, format string, args ...any) {
		t.AppendRow(table.Row{what, fmt.Sprintf(format, args...)})
	}
	say("process", "%d, up %s", s.PID, time.Since(s.Started).Round(time.Second))
	say("source", "%s", s.Source.Name)
	switch {
	case s.Applied.Generation > 0:
		say("applied", "%s, the last %s ago: %s, %s", counted(s.Applied.Generation, "update"),
			time.Since(s.Applied.At).Round(time.Second), counted(s.Applied.Services, "service"), counted(s.Applied.Workloads, "workload"))
	case s.Applied.Inherited:
		say("applied", "nothing yet; the kernel goes on with what an earlier agent left")
	default:
		say("applied", "nothing yet, and no earlier agent left anything: connections go where they ask")
	}
	sayPolicies(say, s.Source)
	for _, line := range s.Source.Unused {
		say("not used", "%s", line)
	}
	if s.Source.Lost != "" {
		say("NOT REACHED", "%s", strings.ReplaceAll(s.Source.Lost, "\n", "; "))
	}
	if s.Source.Error != "" {
		say("REFUSED", "%s", strings.ReplaceAll(s.Source.Error, "\n", "; "))
	}
	if s.Source.Error != "" && s.Source.Retries > 0 {
		say("tried again", "%d times since the start", s.Source.Retries)
	}
	if s.Problem != "" {
		say("PROBLEM", "%s", s.Problem)
	}
	for _, c := range s.Applied.Conflicts {
		say("conflict", "%s is claimed by %s; the first has it", c.Frontend, strings.Join(c.Services, ", "))
	}
	for _, line := range s.HandOffs {
		say("hand-off", "%s", line)
	}
	if s.Chain != "" {
		say("CNI CHAIN", "%s", s.Chain)
	}
	say("audit", "%s", auditWords(s.Audit))
	for _, n := range s.Neighbours {
		say("neighbour", "program %v", l4.Neighbour{Hook: n.Hook, Program: n.Program, ID: n.ID, Before: n.Before, Pod: n.Pod})
	}
	var pods []string
	for _, p := range s.Pods {
		name := p.Name
		if !p.Watched {
			name += " (not watched)"
		}
		if p.Older > 0 {
			name += fmt.Sprintf(" (%d connections are older%s)", p.Older, endedWords(p.Ended))
		}
		pods = append(pods, name)
	}
	if len(pods) == 0 {
		say("enrolled", "none")
	} else {
		say("enrolled", "%d: %s", len(pods), strings.Join(pods, ", "))
	}
	if s.Unknown > 0 {
		say("enrolled", "%d more by an earlier agent, of pods that nobody knows any more", s.Unknown)
	}
	t.Render()
}

// counted is a number of things in words.
func counted[N int | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// endedWords says what became of connections that are older than an enrolment.
func endedWords(ended int) string {
	if ended == 0 {
		return ", not redirected"
	}
	return fmt.Sprintf(", %d were ended", ended)
}

// withOrigin is a policy's name, with what istiod has made it of.
func withOrigin(policy, origin string) string {
	if origin == "" {
		return policy
	}
	return policy + " (" + origin + ")"
}

// sayPolicies names each policy that is not enforced.
func sayPolicies(say func(string, string, ...any), s api.Source) {
	if s.UnenforcedPolicies > 0 {
		then := "connections to them are NOT refused"
		if s.RefusedWorkloads > 0 {
			then = fmt.Sprintf("TCP connections to %d of them are refused", s.RefusedWorkloads)
		}
		say("POLICIES", "%d received, NOT ENFORCED; they name %s, %s", s.UnenforcedPolicies, counted(s.UnenforcedWorkloads, "workload"), then)
	}
	for _, u := range s.Unenforced {
		what := "NOT ENFORCED"
		if u.DryRun {
			what = "dry run"
		}
		names := ""
		if u.Workloads > 0 {
			names = ": " + strings.Join(u.Some, ", ")
		}
		if more := u.Workloads - len(u.Some); more > 0 {
			names += fmt.Sprintf(" and %d more, see `duomesh dump policies`", more)
		}
		say("policy", "%s received, %s, names %s%s", withOrigin(u.Policy, u.Origin), what, counted(u.Workloads, "workload"), names)
	}
}

func auditWords(a *api.Audited) string {
	switch {
	case a == nil:
		return "not made yet"
	case a.Error != "":
		return "failed: " + a.Error
	case a.Differences == 0:
		words := "the kernel is as applied, " + time.Since(a.At).Round(time.Second).String() + " ago"
		if a.Repaired > 0 {
			words += fmt.Sprintf("; %d differences were repaired, the last %s ago", a.Repaired, time.Since(a.RepairedAt).Round(time.Second))
		}
		return words
	}
	return fmt.Sprintf("%d differences, see `duomesh diff`", a.Differences)
}
