package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent"
	"github.com/duomesh/duomesh/internal/kernel"
)

func start(ctx context.Context, f flags, env func(string) string, out io.Writer) error {
	if err := errors.Join(f.kmesh.check(), f.limits.check(), f.checkHandoff()); err != nil {
		return err
	}
	log, err := f.logger(out)
	if err != nil {
		return err
	}
	if err := checkEnvironment(env); err != nil {
		return err
	}
	if env("KMESH_ENABLE_DNS_PROXY") == "true" {
		log.Warn("KMESH_ENABLE_DNS_PROXY=true has no effect: this agent has no DNS proxy, pods ask the cluster's name server")
	}
	place, err := f.place(env)
	if err != nil {
		return err
	}
	if f.kube.removeCNI {
		return f.kube.uninstall(f.enrol, log)
	}
	var from source
	if !f.remove {
		if err := f.kube.locate(ctx, &place, log); err != nil {
			return err
		}
		if from, err = f.from(env, place, log); err != nil {
			return err
		}
	}
	if kernel.Root.Probe() != nil {
		return usagef("root is needed to load BPF programs")
	}
	if f.remove {
		return f.takeAway()
	}
	cgroup, err := f.openCgroup()
	if err != nil {
		return err
	}
	defer cgroup.Close()
	if err := f.kube.mount(f.bpffs); err != nil {
		return err
	}
	kube, err := f.kube.open(f, place, cgroup.Name(), log)
	if err != nil {
		return err
	}
	cfg := agent.Config{
		Host:        dataplane.Host{Cgroup: cgroup, BPFFS: f.bpffs, Place: place, Log: log},
		Engine:      dataplane.Options{Force: f.force, Limits: f.limits.Limits},
		Source:      from.name,
		Collectors:  from.metrics,
		EnrolSocket: f.enrol, State: f.stateFile(), Admin: f.admin, Metrics: f.metrics, Log: log,
		ResetExisting: f.reset,
	}
	kube.admit(&cfg)
	err = serve(ctx, from, cfg, kube.run)
	kube.unserved(ctx, err, dataplane.Pinned(f.bpffs))
	if !kube.removed() {
		return err
	}
	log.Info("the agent's DaemonSet or its namespace was deleted: everything goes with it")
	err = errors.Join(err, kube.leave(context.WithoutCancel(ctx)))
	if f.bpffs != "" {
		err = errors.Join(err, f.takeAway())
	}
	return err
}

func (f flags) logger(out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usagef("--log-level %s: want debug, info, warn or error", f.logLevel)
	}
	if f.kmesh.bpfLog {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})), nil
}

// takeAway needs no engine: what is pinned goes, of whatever layout, and with
// the pins the programs.
func (f flags) takeAway() error {
	if f.bpffs == "" {
		return usagef("--remove: --bpffs says where the pins are")
	}
	if err := dataplane.RemovePins(f.bpffs); err != nil {
		return err
	}
	if err := os.Remove(f.stateFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove kept enrolments: %w", err)
	}
	return nil
}

// serve runs the agent, and beside it what enrols on its socket.
func serve(ctx context.Context, from source, cfg agent.Config, beside func(context.Context)) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	a, err := agent.Open(cfg)
	if err != nil {
		cancel()
		return err
	}
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		err = errors.Join(err, a.Close())
	}()
	updates := make(chan agent.Update)
	pass, err := from.watch(ctx, updates)
	if err != nil {
		return err
	}
	wg.Go(pass)
	wg.Go(func() { beside(ctx) })
	cfg.Log.Info("the agent takes enrolments, and asks its source", "node", cfg.Host.Place.Node, "source", cfg.Source,
		"cgroup", cfg.Host.Cgroup.Name(), "bpffs", cfg.Host.BPFFS, "enrol", cfg.EnrolSocket,
		"admin", a.Admin(), "metrics", a.Metrics())
	return a.Run(ctx, updates)
}
