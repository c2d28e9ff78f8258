package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

func newNetsimCmd() *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:   "netsim",
		Short: "Simulate a cluster on this machine: pods are network namespaces",
		Example: `  duomesh netsim up -f samples/netsim/fortio.yaml --detach
  duomesh netsim ls
  duomesh netsim exec client -- curl -s http://10.96.0.10/
  duomesh netsim down`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.PersistentFlags().StringVar(&runDir, "run-dir", netsim.DefaultRunDir, "`DIR` where clusters say that they live")
	cmd.AddCommand(newNetsimUpCmd(&runDir), newNetsimApplyCmd(&runDir), newNetsimListCmd(&runDir),
		newNetsimExecCmd(&runDir), newNetsimStartCmd(&runDir), newNetsimDownCmd(&runDir))
	return cmd
}

// requireNetsim returns one clear sentence when this machine cannot simulate.
func requireNetsim() error {
	if kernel.Root.Probe() != nil {
		return usagef("root is needed to make network namespaces: run it with sudo")
	}
	if err := kernel.Cgroup2Mount.Probe(); err != nil {
		return usagef("this machine lacks cgroup2: %w", err)
	}
	return nil
}

// loadTopology reads a topology file; what is wrong with it is bad usage.
func loadTopology(ctx context.Context, path string) (netsim.File, error) {
	if path == "" {
		return netsim.File{}, usagef("a topology is needed: -f FILE (samples/netsim/fortio.yaml is one)")
	}
	f, err := netsim.LoadFile(ctx, path)
	if err != nil {
		return f, usageError{err}
	}
	return f, nil
}

type upFlags struct {
	runDir  *string
	file    string
	id      string
	pinned  bool
	agents  bool
	istiod  bool
	detach  bool
	readyFD int
}

// once is the value of a flag that names what is to be made: two names are one too many.
type once struct{ to *string }

// String implements pflag.Value.
func (o once) String() string {
	if o.to == nil {
		return ""
	}
	return *o.to
}

// Set implements pflag.Value.
func (o once) Set(value string) error {
	if *o.to != "" && *o.to != value {
		return fmt.Errorf("it is %s already: give one of them", *o.to)
	}
	*o.to = value
	return nil
}

// Type implements pflag.Value.
func (o once) Type() string { return "string" }

func newNetsimUpCmd(runDir *string) *cobra.Command {
	f := upFlags{runDir: runDir}
	cmd := &cobra.Command{
		Use:   "up -f FILE",
		Short: "Build a cluster and hold it until SIGINT, or in the background",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := loadTopology(cmd.Context(), f.file)
			if err != nil {
				return err
			}
			if f.id != "" {
				if err := netsim.CheckID(f.id); err != nil {
					return usagef("--id: %w", err)
				}
			}
			if err := requireNetsim(); err != nil {
				return err
			}
			if f.agents && beside("duomesh-agent") == "" {
				return usagef("--agents: there is no duomesh-agent beside this program")
			}
			if err := errors.Join(checkEnvoy(), f.checkIstiod(file)); err != nil {
				return err
			}
			if len(file.Topology.Waypoints()) > 0 && envoyPath() == "" {
				return usagef("the topology has a waypoint, and there is no Envoy: make tools fetches one, ENVOY_BIN names yours")
			}
			if f.detach {
				if info, err := os.Stat(f.file); err == nil && !info.Mode().IsRegular() {
					return usagef("--detach: %s is no regular file, and is read a second time in the background", f.file)
				}
				return upDetached(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return refused(up(cmd.Context(), f, file, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "topology `FILE`")
	flags.Var(once{&f.id}, "id", "name of the cluster; random when it is not given")
	flags.BoolVar(&f.pinned, "pinned", false, "give each node a bpffs where its engine pins programs and maps")
	flags.BoolVar(&f.agents, "agents", false, "give each node an agent of its own, the duomesh-agent beside this program")
	flags.BoolVar(&f.istiod, "istiod", false, "give the cluster a real etcd, kube-apiserver and istiod ('make controlplane' builds them); each node has an agent that asks it")
	flags.BoolVar(&f.detach, "detach", false, "hold the cluster in the background and print its name")
	flags.IntVar(&f.readyFD, "ready-fd", 0, "")
	if err := flags.MarkHidden("ready-fd"); err != nil {
		panic(err) // only when there is no such flag
	}
	return cmd
}

// up holds a cluster until ctx is done.
func up(ctx context.Context, f upFlags, file netsim.File, out, log io.Writer) (err error) {
	logger := slog.New(slog.NewTextHandler(log, nil))
	var name *netsim.Name
	if f.id != "" {
		name, err = netsim.Reserve(ctx, netsim.Config{ID: f.id, RunDir: *f.runDir, Log: logger})
		if err != nil {
			return fmt.Errorf("open cluster %s: %w", f.id, err)
		}
		defer func() { err = errors.Join(err, name.Close()) }()
	}
	plane, err := f.openPlane(ctx, logger)
	if err != nil {
		return err
	}
	if plane != nil {
		defer func() { err = errors.Join(err, plane.Close()) }()
	}
	agent := ""
	if f.agents || f.istiod {
		agent = beside("duomesh-agent")
	}
	c, err := netsim.Open(ctx, netsim.Config{
		Agent: agent, Waypoint: beside("duomesh-waypoint"), Envoy: envoyPath(), ID: f.id, Name: name, RunDir: *f.runDir,
		Pinned: f.pinned, Pods: file.Pods, VIPs: file.VIPs,
		ControlPlane: plane, Log: logger,
	}, file.Topology)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	err = c.Apply(ctx, file.Objects)
	if err == nil {
		err = c.StartServers(ctx)
	}
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("cluster %s was not up yet: %w", c.ID(), context.Cause(ctx))
	case err != nil:
		return err
	}
	if f.readyFD > 0 {
		if err := detached(c, f.readyFD); err != nil {
			return err
		}
	} else {
		printCluster(out, c.State())
		printKube(out, c.State())
		fmt.Fprintf(out, "\nCluster %s is up until this process ends (Ctrl-C).\n", c.ID())
	}
	<-ctx.Done()
	return nil
}

func newNetsimApplyCmd(runDir *string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "apply [CLUSTER] -f FILE",
		Short: "Replace the services of a running cluster",
		Long: "Replace the services of a running cluster by those of a topology file. Its nodes and\n" +
			"pods are not looked at: they are what they were when the cluster came up.",
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := loadTopology(cmd.Context(), file)
			if err != nil {
				return err
			}
			s, err := netsim.Find(*runDir, first(args))
			if errors.Is(err, fs.ErrPermission) {
				return usagef("root is needed to look into a cluster: run it with sudo")
			}
			if err != nil {
				return usageError{err}
			}
			return refused(netsim.ApplyTo(cmd.Context(), *runDir, s.ID, f.Objects))
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "topology `FILE`")
	return cmd
}

// refused makes what a cluster does not take bad input: nothing was changed.
func refused(err error) error {
	var no netsim.RefusedError
	if errors.As(err, &no) || errors.Is(err, scenario.ErrNotExpressible) || errors.Is(err, fs.ErrExist) {
		return usageError{err}
	}
	return err
}

// downTime bounds how long a cluster may take to go down.
const downTime = time.Minute

func newNetsimDownCmd(runDir *string) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down [CLUSTER]",
		Short: "Take a cluster down, and remove what dead ones left",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef("down: --all and a name exclude each other")
			}
			if err := requireNetsim(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), downTime)
			defer cancel()
			dead, err := netsim.Dead(*runDir)
			if err != nil {
				return err
			}
			if err := netsim.Sweep(ctx, *runDir); err != nil {
				return err
			}
			for _, id := range dead {
				fmt.Fprintf(cmd.OutOrStdout(), "removed what the dead cluster %s left\n", id)
			}
			doomed, err := chosen(*runDir, first(args), all)
			if slices.Contains(dead, first(args)) || (len(args) == 0 && len(dead) > 0 && len(doomed) == 0) {
				return nil
			}
			if err != nil {
				return err
			}
			var errs []error
			for _, s := range doomed {
				err := netsim.Down(ctx, *runDir, s)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "cluster %s is down\n", s.ID)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every cluster of this machine")
	return cmd
}

// chosen are the clusters that a command is about.
func chosen(runDir, id string, all bool) ([]netsim.State, error) {
	if all {
		return netsim.Clusters(runDir)
	}
	s, err := netsim.Find(runDir, id)
	if err != nil {
		return nil, usageError{err}
	}
	return []netsim.State{s}, nil
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%sunknown argument %q", called(cmd), args[0])
	}
	return nil
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%sunknown argument %q", called(cmd), args[1])
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// resolvePod finds a pod of a running cluster by "POD" or "CLUSTER/POD".
func resolvePod(runDir, name string) (netsim.PodState, error) {
	p, err := netsim.FindPod(runDir, name)
	if errors.Is(err, fs.ErrPermission) {
		return p, usagef("root is needed to look into a cluster: run it with sudo")
	}
	if err != nil {
		return p, usageError{err}
	}
	return p, nil
}
