package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/l4"
	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/kmesh"
	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/trace"
)

func newDoctorCmd() *cobra.Command {
	var output string
	var kmeshToo bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what works on this kernel, what falls back, and why",
		Long: `Loads and attaches every program of the mesh and of the judge, each alone and
where it harms nobody, and says what follows. Nothing is left behind.

With --kmesh it says instead what Kmesh has on this node, and in which order to
take it away. It takes nothing away itself.

Exit code 1: something that duomesh cannot do without does not work here.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown argument %q: see duomesh doctor --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if kmeshToo {
				return findKmesh(kmesh.Here(), output, cmd.OutOrStdout())
			}
			return runDoctor(cmd.Context(), output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	cmd.Flags().BoolVar(&kmeshToo, "kmesh", false, "find what Kmesh has on this node, and say what to remove in which order")
	return cmd
}

func runDoctor(ctx context.Context, output string, out io.Writer) error {
	if os.Geteuid() != 0 {
		return usagef("root is needed to load BPF programs: run it with sudo")
	}
	if err := kernel.BPF.Probe(); err != nil {
		return fmt.Errorf("this kernel has no usable bpf system call: %w", err)
	}
	d, err := diagnose(ctx)
	if err != nil {
		return err
	}
	if output == "json" {
		err = json.NewEncoder(out).Encode(d)
	} else {
		err = printDiagnosis(out, d)
	}
	if err != nil {
		return fmt.Errorf("write diagnosis: %w", err)
	}
	if d.Blocked() {
		return gateError{report.ExitFail}
	}
	return nil
}

func diagnose(ctx context.Context) (kernel.Diagnosis, error) {
	d, err := kernel.NewDiagnosis()
	if err != nil {
		return d, err
	}
	d.Features = kernel.TryFeatures(kernel.Features())
	if d.Engine, err = l4.Trials(); err != nil {
		return d, err
	}
	if d.Judge, err = probe.Trials(); err != nil {
		return d, err
	}
	tracing, err := trace.Trials()
	if err != nil {
		return d, err
	}
	d.Judge = append(d.Judge, tracing...)
	d.Uses = slices.Concat(engineUses(d.Features), judgeUses(ctx), traceUses(), []kernel.Use{envoyUse(ctx)})
	return d, nil
}

// engineUses opens a whole engine on an empty cgroup, and says what becomes of
// what this kernel lacks.
func engineUses(features []kernel.Trial) []kernel.Use {
	engine := kernel.Use{For: "redirect connections", Needed: true}
	others, listener, err := tryEngine()
	if err != nil {
		engine.Instead = []string{err.Error()}
		engine.Effect = "the engine does not open"
		return []kernel.Use{engine}
	}
	engine.By = "cgroup programs at connect()"
	refusal := kernel.Use{For: "refuse connections", By: "bpf_set_retval"}
	if why := lack(features, kernel.SetRetval); why != "" {
		refusal.By, refusal.Instead = "return value of the program", []string{why}
		refusal.Effect = "the application gets EPERM, not ECONNREFUSED"
	}
	return slices.Concat([]kernel.Use{engine, refusal}, datagramUses(features), olderUses(features, listener), neighbourUses(others))
}

// datagramUses say what becomes of UDP: the engine opens only where it can redirect
// datagrams and their answers, and ends the sockets of endpoints that left where the
// kernel lets it.
func datagramUses(features []kernel.Trial) []kernel.Use {
	redirect := kernel.Use{For: "redirect datagrams", By: "cgroup programs at sendmsg() and recvmsg()"}
	for _, f := range []kernel.Feature{kernel.CgroupSendmsg, kernel.CgroupRecvmsg} {
		if why := lack(features, f); why != "" {
			redirect.By, redirect.Effect = "", "UDP that names its address in each send is left to the network"
			redirect.Instead = append(redirect.Instead, why)
		}
	}
	end := kernel.Use{For: "end UDP sockets of a removed endpoint", By: "bpf_sock_destroy"}
	if why := lack(features, kernel.SockDestroy); why != "" {
		end.By, end.Instead = "", []string{why}
		end.Effect = "a connected UDP socket keeps the endpoint that it has until it is closed"
	}
	return []kernel.Use{redirect, end}
}

// traceUses say what can be named of the kernel's own doing.
func traceUses() []kernel.Use {
	u := kernel.Use{For: "name the kernel's functions", By: "kprobe.multi, kprobe or fentry"}
	if err := trace.Check(); err != nil {
		u.By, u.Instead, u.Effect = "", []string{err.Error()}, "duomesh probe refuses --stack and --functions"
		var none *trace.NoFunctionsError
		if errors.As(err, &none) {
			u.Instead = none.Reasons()
		}
	}
	return []kernel.Use{u}
}

// neighbourUses names the programs of others that run for every connection of this
// machine. Those of one pod are in the agent's status.
func neighbourUses(others []l4.Neighbour) []kernel.Use {
	var uses []kernel.Use
	for _, o := range others {
		u := kernel.Use{For: "share connections with " + o.Program, By: o.String()}
		if strings.HasSuffix(o.Hook, "Connect") {
			u.Effect = "the engine works beside it: a test connection was redirected"
		}
		uses = append(uses, u)
	}
	return uses
}

// lack says why a feature does not work, or "".
func lack(tried []kernel.Trial, f kernel.Feature) string {
	for _, t := range tried {
		if t.Name == f.Name && t.Outcome != kernel.Works {
			return t.Name + ": " + t.Reason
		}
	}
	return ""
}

// tryEngine opens one. listener is why a waypoint that listens already cannot be served.
func tryEngine() (others []l4.Neighbour, listener, err error) {
	g, err := kernel.NewGround()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	cgroup, err := g.Cgroup()
	if err != nil {
		return nil, nil, err
	}
	e, err := l4.Open(l4.Host{Cgroup: cgroup}, l4.Options{})
	if err != nil {
		return nil, nil, err
	}
	return e.Neighbours(), tryListener(e, cgroup), e.Close()
}

// envoyUse says which Envoy a waypoint would be.
func envoyUse(ctx context.Context) kernel.Use {
	u := kernel.Use{For: "run a waypoint"}
	path := envoyPath()
	if path == "" {
		u.Instead = []string{"no Envoy: make tools fetches one, ENVOY_BIN names yours"}
		u.Effect = "no HTTP rules: scenarios and bench variants that need a waypoint are NOT RUN"
		return u
	}
	version, err := envoy.Version(ctx, path)
	if err != nil {
		way := "make tools fetches it anew when it is damaged, ENVOY_BIN names yours"
		if os.Getenv("ENVOY_BIN") != "" {
			way = "ENVOY_BIN names it"
		}
		u.Instead = []string{fmt.Sprintf("%v (%s)", err, way)}
		u.Effect = "no HTTP rules: scenarios and bench variants that need a waypoint are NOT RUN"
		return u
	}
	u.By = fmt.Sprintf("Envoy %s at %s", version, path)
	return u
}

// judgeUses opens a whole judge that watches nobody.
func judgeUses(ctx context.Context) []kernel.Use {
	p, err := probe.Open(ctx, nil, probe.Options{UDP: true})
	if err != nil {
		return []kernel.Use{{
			For: "observe connections", Needed: true, Instead: []string{err.Error()},
			Effect: "the judge does not open: no verdicts",
		}}
	}
	var uses []kernel.Use
	for _, k := range probe.Kinds() {
		provider := p.Providers()[k]
		u := kernel.Use{For: "observe " + k.String(), By: provider.Name, Instead: provider.PassedOver}
		if u.By == "" {
			u.Effect = "it is not seen: verdicts that rest on it are inconclusive"
		}
		uses = append(uses, u)
	}
	if err := p.Close(); err != nil {
		uses = append(uses, kernel.Use{For: "close the judge", Needed: true, Instead: []string{err.Error()}})
	}
	return uses
}
