package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/report"
)

func newDiffCmd() *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Compare the kernel's maps with what was applied",
		Long: "Compare the kernel's maps with what was applied, entry by entry, now. The exit code is 1 when\n" +
			"they differ.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			desks, err := f.desks(cmd.Context(), "")
			if err != nil {
				return err
			}
			all, from, failed := askAll(cmd.Context(), desks, func(ctx context.Context, c *api.Client) (api.Audit, error) {
				return c.Audit(ctx)
			})
			if len(all) == 0 {
				return failed
			}
			out, different := cmd.OutOrStdout(), 0
			if f.output != "table" {
				failed = errors.Join(printAnswers(out, f.output, all, from), failed)
			}
			for i, a := range all {
				different += len(a.Differences)
				if f.output != "table" {
					continue
				}
				heading(out, from, i)
				printDifferences(out, a.Differences)
				if len(a.Differences) == 0 {
					fmt.Fprintln(out, "the kernel's maps are what was applied")
				}
			}
			if failed == nil && different > 0 {
				return gateError{report.ExitFail}
			}
			return failed
		},
	}
	f.define(cmd)
	return cmd
}
