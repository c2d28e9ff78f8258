package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/cluster"
)

// clusterFlags say which Kubernetes cluster, as kubectl's do.
type clusterFlags struct{ where cluster.Where }

func (f *clusterFlags) define(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.where.Kubeconfig, "kubeconfig", "", "`FILE` of how to reach the cluster; KUBECONFIG, or ~/.kube/config, when not given")
	set.StringVar(&f.where.Context, "context", "", "`NAME` of a context in it")
}

// open returns a client of a cluster that answers.
func (f clusterFlags) open(ctx context.Context) (*cluster.Client, error) {
	if named := os.Getenv("KUBECONFIG"); f.where.Kubeconfig == "" && named != "" && !anyThere(filepath.SplitList(named)) {
		return nil, usagef("KUBECONFIG=%s: there is no such file", named)
	}
	c, err := f.where.Open()
	if err != nil {
		return nil, usageError{err}
	}
	return c, c.Reach(ctx)
}

func anyThere(files []string) bool {
	return slices.ContainsFunc(files, func(file string) bool {
		_, err := os.Stat(file)
		return err == nil
	})
}
