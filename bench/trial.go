package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
)

// waypointName is what the Envoy of a site is called in a table.
const waypointName = "waypoint"

// stopTime bounds how long a child may take to end after its work.
const stopTime = 5 * time.Second

// pair is a fresh client and a fresh server process at a site, warmed up.
type pair struct {
	site   Site
	client *load.Client
	server *load.Server
	stops  []func() error
	// ctx ends when the pair hangs, and both processes with it: whoever waits for
	// one of them then has an error.
	ctx    context.Context
	cancel context.CancelFunc
	limit  time.Duration
}

// errHangs is why both processes were ended.
var errHangs = errors.New("it hangs")

// startPair starts both ends and warms them up. The caller closes the pair.
func startPair(ctx context.Context, site Site, p plan.Plan, m plan.Mode) (_ *pair, err error) {
	pr := &pair{site: site, limit: p.Limit()}
	pr.ctx, pr.cancel = context.WithTimeoutCause(ctx, pr.limit, errHangs)
	defer func() {
		if err != nil {
			err = errors.Join(err, pr.close())
		}
	}()
	in, out, err := pr.start(site.Server, load.ServerName)
	if err != nil {
		return nil, err
	}
	pr.server = load.NewServer(in, out)
	if _, err := pr.server.Listen(load.ServerSpec{Port: site.ServerPort, MaxProcs: p.Load.MaxProcs}); err != nil {
		return nil, err
	}
	in, out, err = pr.start(site.Client, load.ClientName)
	if err != nil {
		return nil, err
	}
	pr.client = load.NewClient(in, out)
	return pr, pr.client.Warm(p.Spec(m, site.Address))
}

// start runs a child on two pipes and remembers how to end it.
func (p *pair) start(pod Pod, name string) (stdin, stdout *os.File, err error) {
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	defer childIn.Close()
	stdout, childOut, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make pipe: %w", err), stdin.Close())
	}
	defer childOut.Close()
	proc, err := pod.Start(p.ctx, name, childIn, childOut)
	if err != nil {
		return nil, nil, errors.Join(err, stdin.Close(), stdout.Close())
	}
	p.stops = append(p.stops, func() error {
		err := stdin.Close() // the children end when their input does
		ended, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), stopTime)
		defer cancel()
		stop := context.AfterFunc(ended, func() { proc.Stop(ended) })
		defer stop()
		return errors.Join(err, proc.Wait(), stdout.Close())
	})
	return stdin, stdout, nil
}

// close ends both processes, the newer first.
func (p *pair) close() error {
	var errs []error
	if why := context.Cause(p.ctx); errors.Is(why, errHangs) {
		errs = append(errs, fmt.Errorf("%w: not over after %v", why, p.limit))
	}
	for i := len(p.stops) - 1; i >= 0; i-- {
		errs = append(errs, p.stops[i]())
	}
	p.stops = nil
	p.cancel()
	return errors.Join(errs...)
}

// reading is everything that is read at the ends of a span.
type reading struct {
	at         time.Time
	idle       idleTime
	cpu        result.CPU // Client, Server and Harness, since ever
	server     load.Counts
	redirected uint64
	opened     []ambient.Opened
	memory     map[string]uint64
}

// read takes the clocks last before a span and first after it, so that reading
// the rest is outside.
func (p *pair) read(after bool) (r reading, err error) {
	steps := []func() error{
		func() error { r.memory, err = p.site.memory(); return err },
		func() error { r.server, err = p.server.Counts(); return err },
		func() error {
			r.redirected, r.opened, err = p.redirected()
			return err
		},
		func() error { r.cpu.Harness, err = ownCPU(); return err },
		func() error { r.cpu.Server, err = p.site.Server.CPU(); return err },
		func() error {
			if p.site.Proxies != nil {
				r.cpu.Proxies, err = p.site.Proxies.CPU()
			}
			return err
		},
		func() error {
			if p.site.Proxy == nil {
				return nil
			}
			var cpu time.Duration
			if cpu, err = p.site.Proxy.CPU(); err != nil {
				return err
			}
			if r.cpu.Proxies == nil {
				r.cpu.Proxies = map[string]time.Duration{}
			}
			r.cpu.Proxies[waypointName] = cpu
			return nil
		},
		func() error { r.cpu.Client, err = p.site.Client.CPU(); return err },
		func() error { r.idle, err = readIdle(); return err },
		func() error { r.at = time.Now(); return nil },
	}
	for i := range steps {
		if after {
			i = len(steps) - 1 - i
		}
		if err := steps[i](); err != nil {
			return r, err
		}
	}
	return r, nil
}

// redirected is what the engine, or the client's node proxies, counted so far; all is
// everything that these have counted.
func (p *pair) redirected() (n uint64, all []ambient.Opened, err error) {
	switch {
	case p.site.Engine != nil:
		n, err = p.site.Engine.Redirected()
	case p.site.Proxies != nil:
		all, err = p.site.Proxies.Opened(p.ctx)
		want, _ := p.site.Proxies.Want()
		n = countOf(all, want)
	}
	return n, all, err
}

// runTrial makes one measurement: a fresh pair, a warm-up, a timed span.
func runTrial(ctx context.Context, site Site, p plan.Plan, c plan.Cell) (t result.Trial, res load.Result, err error) {
	pr, err := startPair(ctx, site, p, c.Mode)
	if err != nil {
		return t, res, err
	}
	defer func() { err = errors.Join(err, pr.close()) }()
	before, err := pr.read(false)
	if err != nil {
		return t, res, err
	}
	if err := pr.client.Run(); err != nil {
		return t, res, err
	}
	after, err := pr.read(true)
	if err != nil {
		return t, res, err
	}
	if res, err = pr.client.Collect(); err != nil {
		return t, res, err
	}
	t = span(before, after)
	t.Cell, t.Client, t.ProxyMemory = c, res.Report, after.memory
	if site.Engine != nil || site.Proxies != nil {
		n := after.redirected - before.redirected
		t.Redirected = &n
	}
	if site.Proxies != nil {
		atClient, atServer := site.Proxies.Want()
		t.Otherwise = otherwise(before.opened, after.opened, atClient, atServer)
	}
	return t, res, nil
}

// span is the difference of two readings.
func span(before, after reading) result.Trial {
	wall := after.at.Sub(before.at)
	cores := after.idle.cores
	return result.Trial{
		Start: before.at.UTC(),
		Wall:  wall,
		Server: load.Counts{
			Port:        after.server.Port,
			Connections: after.server.Connections - before.server.Connections,
			Requests:    after.server.Requests - before.server.Requests,
		},
		CPU: result.CPU{
			Client:  after.cpu.Client - before.cpu.Client,
			Server:  after.cpu.Server - before.cpu.Server,
			Harness: after.cpu.Harness - before.cpu.Harness,
			Machine: max(wall*time.Duration(cores)-(after.idle.idle-before.idle.idle), 0),
			Steal:   after.idle.steal - before.idle.steal,
			Cores:   cores,
			Proxies: spent(before.cpu.Proxies, after.cpu.Proxies),
		},
	}
}

func spent(before, after map[string]time.Duration) map[string]time.Duration {
	all := map[string]time.Duration{}
	for name, t := range after {
		all[name] = t - before[name]
	}
	if len(all) == 0 {
		return nil
	}
	return all
}
