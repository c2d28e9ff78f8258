package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/netsim"
)

type probeFlags struct {
	netns     []string
	pods      []string
	cgroup    string
	runDir    string
	dst       string
	output    string
	readyFile string
	timeout   time.Duration
	limit     int
	udp       bool
	ring      int
	by        []string
	stack     bool
	drops     bool
	functions []string
	cluster   clusterFlags
}

func newProbeCmd() *cobra.Command {
	var f probeFlags
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Watch where connections really go, by kernel probes alone",
		Long: "Watch where connections really go: what the application asked for, where its socket was\n" +
			"connected, and what was on the wire. Any machine will do, no duomesh need run. A connection\n" +
			"is printed when it is over, what is still open at the end. Without --netns and --pod this\n" +
			"network namespace is watched. Exit code 3: something was missed.",
		Example: `  duomesh probe --dst 10.96.0.10:80
  duomesh probe --netns $(pgrep -o nginx) -o json --timeout 10s
  duomesh probe --pod client --limit 100
  duomesh probe --pod client --stack --drops
  duomesh probe --kubeconfig out/kind/kubeconfig --pod default/netutils-7d9c --limit 20
  duomesh probe --functions 'tcp_*' --timeout 10s`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("probe: unexpected argument %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return judged(runProbe(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.netns, "netns", nil, "watch the network namespace of `PATH|PID`; may be repeated")
	flags.StringArrayVar(&f.pods, "pod", nil, "watch `[CLUSTER/]POD` of a running netsim, or [NAMESPACE/]POD with --kubeconfig; may be repeated")
	flags.StringVar(&f.cluster.where.Kubeconfig, "kubeconfig", "", "--pod is one of the Kubernetes cluster of this `FILE`, whose nodes are on this machine, as kind's are")
	flags.StringVar(&f.cluster.where.Context, "context", "", "`NAME` of a context in it")
	flags.StringVar(&f.cgroup, "cgroup", "", "cgroup v2 directory `PATH` of the processes in --netns; default: that of the PID, else the root")
	flags.StringVar(&f.runDir, "run-dir", netsim.DefaultRunDir, "`DIR` where clusters say that they live")
	flags.StringVar(&f.dst, "dst", "", "only connections that asked for, or went to, `ADDR[:PORT]`")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json (one line per connection)")
	flags.StringVar(&f.readyFile, "ready-file", "", "create `FILE` when everything is seen")
	flags.DurationVar(&f.timeout, "timeout", 0, "end after this time; 0: at a signal")
	flags.IntVar(&f.limit, "limit", 0, "end after `N` connections; 0: no limit")
	flags.BoolVar(&f.udp, "udp", false, "also show what UDP sockets ask for")
	flags.IntVar(&f.ring, "ring", 0, "size in `BYTES` of the event ring, a power of two; 0 takes the default")
	flags.StringArrayVar(&f.by, "by", nil, "observe by this `PROVIDER` alone of those of its kind; may be repeated")
	flags.BoolVar(&f.stack, "stack", false, "also name the kernel's functions that each connection passed from connect to accept (kprobes)")
	flags.StringArrayVar(&f.functions, "functions", nil, "also count the calls of the kernel's functions that match `GLOB` (kprobes); may be repeated")
	flags.BoolVar(&f.drops, "drops", false, "also say of packets that the kernel threw away why, where and whose")
	return cmd
}

func runProbe(ctx context.Context, f probeFlags, out, errOut io.Writer) (err error) {
	filter, err := f.check()
	if err != nil {
		return err
	}
	targets, files, err := f.targets(ctx)
	defer func() { err = errors.Join(err, closeAll(files)) }()
	if err != nil {
		return err
	}
	p, err := probe.Open(ctx, targets, probe.Options{
		UDP: f.udp, RingBytes: f.ring, By: f.by, AllowLate: true,
		Log: slog.New(slog.NewTextHandler(errOut, nil)),
	})
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	t, err := f.trace(targets)
	if err != nil {
		return err
	}
	if t != nil {
		defer func() { err = errors.Join(err, t.Close()) }()
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	if err := f.ready(); err != nil {
		return err
	}
	w := &lineWriter{out: out, json: f.output == "json", filter: filter, limit: f.limit, tracing: t}
	last, err := watch(ctx, p, w)
	if err != nil {
		return err
	}
	if err := errors.Join(w.printFunctions(), w.summary(errOut, last), t.summary(errOut)); err != nil {
		return err
	}
	if !last.Lost.Whole() {
		return gateError{report.ExitInconclusive}
	}
	return nil
}

// watch prints connections as they end, until ctx is done or enough were
// printed; then those that are open.
func watch(ctx context.Context, p *probe.Probe, w *lineWriter) (probe.Ledger, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := false
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		l, err := p.Take(context.WithoutCancel(ctx))
		if err != nil {
			return l, err
		}
		if err := errors.Join(w.lines(l.Lines, done), w.printDrops()); err != nil {
			return l, err
		}
		if done || w.full() {
			return l, nil
		}
	}
}

// check refuses bad input before anything is done.
func (f probeFlags) check() (dstFilter, error) {
	if f.output != "text" && f.output != "json" {
		return dstFilter{}, usagef("--output %s: must be text or json", f.output)
	}
	if f.limit < 0 {
		return dstFilter{}, usagef("--limit %d: must not be negative", f.limit)
	}
	if f.timeout < 0 {
		return dstFilter{}, usagef("--timeout %s: must not be negative", f.timeout)
	}
	if f.ring < 0 || f.ring&(f.ring-1) != 0 || (f.ring > 0 && f.ring < os.Getpagesize()) {
		return dstFilter{}, usagef("--ring %d: must be a power of two, at least one page", f.ring)
	}
	if err := probe.CheckProviders(f.by); err != nil {
		return dstFilter{}, usagef("--by: %w", err)
	}
	filter, err := parseDst(f.dst)
	if err != nil {
		return filter, err
	}
	return filter, requireHost()
}

func (f probeFlags) ready() error {
	if f.readyFile == "" {
		return nil
	}
	if err := os.WriteFile(f.readyFile, nil, 0o644); err != nil {
		return usagef("--ready-file: %w", err)
	}
	return nil
}

// dstFilter chooses connections; the zero value takes all, port 0 any.
type dstFilter struct{ to netip.AddrPort }

func parseDst(s string) (dstFilter, error) {
	if s == "" {
		return dstFilter{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return dstFilter{netip.AddrPortFrom(a.Unmap(), 0)}, nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return dstFilter{}, usagef("--dst %s: must be ADDR or ADDR:PORT, IPv6 with a port as [ADDR]:PORT", s)
	}
	return dstFilter{netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, nil
}

// takes reports whether a connection asked for the address, was connected to it,
// or had a SYN to it on the wire.
func (d dstFilter) takes(l probe.Line) bool {
	if !d.to.IsValid() {
		return true
	}
	for _, syn := range l.Wire {
		if d.is(syn.Dst) {
			return true
		}
	}
	return d.is(l.Asked) || d.is(l.Peer)
}

func (d dstFilter) is(a netip.AddrPort) bool {
	return a.Addr().Unmap() == d.to.Addr() && (d.to.Port() == 0 || a.Port() == d.to.Port())
}
