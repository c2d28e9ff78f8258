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
	"github.com/duomesh/duomesh/dataplane/source/file"
	"github.com/duomesh/duomesh/internal/kernel"
)

func start(ctx context.Context, f flags, env func(string) string, out io.Writer) error {
	if err := f.kmesh.check(); err != nil {
		return err
	}
	log, err := f.logger(out)
	if err != nil {
		return err
	}
	place, err := f.place(env)
	if err != nil {
		return err
	}
	path := ""
	if !f.remove {
		if path, err = f.path(env); err != nil {
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
	return serve(ctx, path, agent.Config{
		Host:        dataplane.Host{Cgroup: cgroup, BPFFS: f.bpffs, Place: place, Log: log},
		Source:      f.source,
		EnrolSocket: f.enrol, State: f.stateFile(), Admin: f.admin, Metrics: f.metrics, Log: log,
	})
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

func serve(ctx context.Context, path string, cfg agent.Config) (err error) {
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
	seen, err := file.Watch(ctx, path, cfg.Log)
	if err != nil {
		return err
	}
	updates := make(chan agent.Update)
	wg.Go(func() { pass(ctx, seen, updates) })
	cfg.Log.Info("the agent is ready", "node", cfg.Host.Place.Node, "source", cfg.Source,
		"cgroup", cfg.Host.Cgroup.Name(), "bpffs", cfg.Host.BPFFS, "enrol", cfg.EnrolSocket,
		"admin", a.Admin(), "metrics", a.Metrics())
	return a.Run(ctx, updates)
}

// pass hands updates of a file to the agent until the file's channel is closed.
func pass(ctx context.Context, from <-chan file.Update, to chan<- agent.Update) {
	for u := range from {
		select {
		case to <- agent.Update(u):
		case <-ctx.Done():
		}
	}
}
