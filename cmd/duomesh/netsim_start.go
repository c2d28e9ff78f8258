package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/netsim"
)

func newNetsimStartCmd(runDir *string) *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "start [NODE | WAYPOINT | etcd | kube-apiserver | istiod]...",
		Short: "Start again what has ended: agents, waypoints, programs of the control plane",
		Long: "Start again what has ended, because somebody has killed it: the agent of a node, by the\n" +
			"node's name, the process of a waypoint, by its pod's (waypoint/POD where a node has that\n" +
			"name, too), or a program of the control plane. Without a name all that has ended, which\n" +
			"duomesh netsim ls CLUSTER lists.",
		Example: "  duomesh netsim start a\n  duomesh netsim start --cluster demo istiod",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := netsim.Find(*runDir, id)
			if errors.Is(err, fs.ErrPermission) {
				return usagef("root is needed to look into a cluster: run it with sudo")
			}
			if err != nil {
				return usageError{err}
			}
			if len(args) == 0 {
				ended, err := netsim.EndedOf(cmd.Context(), *runDir, s.ID)
				if err != nil {
					return err
				}
				if len(ended) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "nothing has ended")
					return nil
				}
			}
			return refused(netsim.ReviveOf(cmd.Context(), *runDir, s.ID, args...))
		},
	}
	cmd.Flags().StringVar(&id, "cluster", "", "`NAME` of the cluster; the only one when not given")
	return cmd
}

// endedTime bounds how long a list waits for what has ended.
const endedTime = 3 * time.Second

// printEnded names what has ended of a cluster, and how it is started again.
func printEnded(ctx context.Context, out io.Writer, runDir, id string) {
	ctx, cancel := context.WithTimeout(ctx, endedTime) // what is being started just now answers later
	defer cancel()
	ended, err := netsim.EndedOf(ctx, runDir, id)
	if err != nil || len(ended) == 0 {
		return // a cluster that cannot be asked is shown all the same
	}
	fmt.Fprintf(out, "\nENDED: %s (duomesh netsim start --cluster %s starts it again)\n", strings.Join(ended, ", "), id)
}
