package l7

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/l7/envoy"
)

// Waypoint is a running waypoint.
type Waypoint struct {
	config  Config
	control Control
	envoy   *envoy.Process
	limit   int64
	servers []*grpc.Server
	doors   []*http.Server
	wg      sync.WaitGroup
	// draining is set when the waypoint is to end.
	draining atomic.Bool
}

// Run runs a waypoint until ctx ends, and drains it then. It returns nil when it was
// ended, and else why it cannot go on.
func Run(ctx context.Context, c Config, control Control) (err error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return err
	}
	w := &Waypoint{config: c, control: control, limit: envoy.MaxConnections(c.Descriptors)}
	if c.MaxConnections > 0 {
		w.limit = min(w.limit, c.MaxConnections)
	}
	// The control plane and the doors outlive ctx: Envoy drains before they go.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		end()
		w.stop()
		err = errors.Join(err, control.close())
	}()
	if c.HandOff != nil {
		w.offer(life)
	}
	bootstrap, err := w.serve()
	if err != nil {
		return err
	}
	w.envoy = envoy.Start(life, envoy.Config{
		Path: c.Envoy, Bootstrap: bootstrap, Admin: c.socket("envoy"), Concurrency: concurrency(c),
		LogLevel: c.LogLevel, ComponentLogLevel: c.ComponentLogLevel, Output: c.Output, Log: c.Log,
	})
	defer func() {
		end()
		if ended := w.envoy.Err(); !errors.Is(err, ended) { // which may be why it ends
			err = errors.Join(err, ended)
		}
		w.envoy.Admin.Close()
	}()
	if err := w.open(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	w.wg.Go(func() { failed <- control.run(life) })
	c.Log.Info("the waypoint runs", "waypoint", c.Name, "source", control.source().Name, "envoy", c.Envoy,
		"connections", w.limit, "admin", c.Admin)
	select {
	case <-ctx.Done():
		w.drain()
		return nil
	case <-w.envoy.Done():
		return w.envoy.Err()
	case err := <-failed:
		return err
	}
}

const (
	enginePoll = 200 * time.Millisecond
	// engineGone is how long no engine may answer before the hand-off listener is taken
	// back.
	engineGone = 3 * time.Second
)

// offer gives Envoy the hand-off listener when the node's engine serves this pod, and takes
// it back when that has ceased: connections to a listener that is older than the engine's
// programs may have nobody to answer for them.
func (w *Waypoint) offer(ctx context.Context) {
	serves := w.config.HandOff() == nil
	w.control.withhold(!serves)
	w.wg.Go(func() {
		tick := time.NewTicker(enginePoll)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			switch now := w.config.HandOff() == nil; {
			case now:
				last = time.Now()
				w.control.withhold(false)
			case time.Since(last) > engineGone:
				w.control.withhold(true)
			}
		}
	})
}

func concurrency(c Config) int {
	if c.Concurrency > 0 {
		return c.Concurrency
	}
	return runtime.NumCPU()
}

// serve opens the sockets that Envoy asks, and writes its bootstrap.
func (w *Waypoint) serve() (string, error) {
	sds := ""
	xds := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	w.control.register(xds)
	if err := w.start(xds, "xds"); err != nil {
		return "", err
	}
	secrets := grpc.NewServer()
	if w.control.secrets(secrets) {
		sds = w.config.socket("sds")
		if err := w.start(secrets, "sds"); err != nil {
			return "", err
		}
	}
	data, err := envoy.Bootstrap{
		Node: w.config.Node, XDS: w.config.socket("xds"), SDS: sds, Admin: w.config.socket("envoy"), Connections: w.limit,
	}.JSON()
	if err != nil {
		return "", err
	}
	path := filepath.Join(w.config.Dir, "bootstrap.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", fmt.Errorf("write the bootstrap: %w", err)
	}
	return path, nil
}

// maxMessage bounds a message between Envoy and this process.
const maxMessage = 512 << 20

func (w *Waypoint) start(s *grpc.Server, name string) error {
	l, err := listen("unix", w.config.socket(name))
	if err != nil {
		return err
	}
	w.servers = append(w.servers, s)
	w.wg.Go(func() { s.Serve(l) }) // ends with Stop
	return nil
}

func (w *Waypoint) stop() {
	for _, d := range w.doors {
		d.Close()
	}
	for _, s := range w.servers {
		s.Stop()
	}
	w.wg.Wait()
}

// open opens the doors to people, kubelet and Prometheus.
func (w *Waypoint) open() error {
	for _, door := range []struct {
		address string
		handler http.Handler
	}{
		{w.config.Ready, w.readyHandler()},
		{w.config.Metrics, w.metricsHandler()},
		{w.config.EnvoyMetrics, w.envoyMetricsHandler()},
		{w.config.Admin, w.adminHandler()},
	} {
		if door.address == "" {
			continue
		}
		l, err := listen(network(door.address))
		if err != nil {
			return err
		}
		s := &http.Server{Handler: door.handler, ReadHeaderTimeout: 10 * time.Second}
		w.doors = append(w.doors, s)
		w.wg.Go(func() { s.Serve(l) }) // ends with Close
	}
	return nil
}
