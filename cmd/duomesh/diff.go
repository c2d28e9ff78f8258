package main

import (
	"context"
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
			all, err := askAll(cmd.Context(), desks, func(ctx context.Context, c *api.Client) (api.Audit, error) {
				return c.Audit(ctx)
			})
			if err != nil {
				return err
			}
			out, different := cmd.OutOrStdout(), 0
			if f.output != "table" {
				err = printAnswers(out, f.output, all)
			}
			for i, a := range all {
				different += len(a.Differences)
				if f.output != "table" {
					continue
				}
				heading(out, desks, i)
				printDifferences(out, a.Differences)
				if len(a.Differences) == 0 {
					fmt.Fprintln(out, "the kernel's maps are what was applied")
				}
			}
			if err == nil && different > 0 {
				return gateError{report.ExitFail}
			}
			return err
		},
	}
	f.define(cmd)
	return cmd
}
