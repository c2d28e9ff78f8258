package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/envoy"
)

// The values of --identity.
const (
	identityNone    = "none"
	identityAddress = "address"
)

func (f flags) start(ctx context.Context, s surroundings, out io.Writer) (err error) {
	log, err := f.logger(s, out)
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	f.istio.tell(s.given, log)
	config, err := f.config(s, out, log)
	if err != nil {
		return err
	}
	dir, remove, err := f.directory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	config.Dir = dir
	control, err := f.control(ctx, s, &config)
	if err != nil {
		return err
	}
	return l7.Run(ctx, config, control)
}

func (f flags) logger(s surroundings, out io.Writer) (*slog.Logger, error) {
	name := f.logLevel
	if !s.given("log-level") {
		istio, err := f.istio.level()
		if err != nil {
			return nil, usageError{err}
		}
		if istio != "" {
			name = istio
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return nil, usagef("--log-level %s: want debug, info, warn or error", name)
	}
	options := &slog.HandlerOptions{Level: level}
	if f.istio.logAsJSON {
		return slog.New(slog.NewJSONHandler(out, options)), nil
	}
	return slog.New(slog.NewTextHandler(out, options)), nil
}

// check refuses values that mean nothing.
func (f flags) check() error {
	for name, d := range map[string]time.Duration{"drain": f.drain, "min-drain": f.minDrain, "hold": f.hold} {
		if d < 0 {
			return usagef("--%s %s: a time from 0 on is wanted", name, d)
		}
	}
	for name, n := range map[string]int64{"concurrency": int64(f.concurrency), "max-connections": f.maxConnections} {
		if n < 0 {
			return usagef("--%s %d: a number from 0 on is wanted", name, n)
		}
	}
	if f.admin == "" || strings.HasPrefix(f.admin, "unix:") {
		return nil
	}
	host, _, err := net.SplitHostPort(f.admin)
	if err != nil {
		return usagef("--admin %s: want an address with a port, or unix:PATH: %w", f.admin, err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return usagef("--admin %s: want an address on the loopback, or unix:PATH: whoever reaches it is shown the configuration", f.admin)
	}
	return nil
}

// config is all but the directory and who asks.
func (f flags) config(s surroundings, out io.Writer, log *slog.Logger) (l7.Config, error) {
	path := f.envoy
	if path == "" {
		var err error
		if path, err = exec.LookPath("envoy"); err != nil {
			return l7.Config{}, usagef("no Envoy: --envoy or ENVOY_BIN names one (make tools fetches it)")
		}
	}
	descriptors, err := envoy.Descriptors()
	if err != nil {
		return l7.Config{}, err
	}
	workers := f.concurrency
	if limit, err := strconv.ParseFloat(s.env("ISTIO_CPU_LIMIT"), 64); workers == 0 && err == nil && limit > 0 {
		workers = int(math.Ceil(limit))
	}
	c := l7.Config{
		Name: f.name, Envoy: path, Concurrency: workers, Port: f.port, Descriptors: descriptors,
		LogLevel: f.istio.proxyLogLevel, ComponentLogLevel: f.istio.proxyComponentLog, Output: out,
		MaxConnections: f.maxConnections, Drain: orNone(f.drain), MinDrain: orNone(f.minDrain), Hold: orNone(f.hold),
		Ready: f.ready, Metrics: f.metrics, EnvoyMetrics: f.envoyMetrics, Admin: f.admin, Log: log,
	}
	switch f.identify {
	case identityNone:
	case identityAddress:
		c.ByAddress = true
	default:
		return l7.Config{}, usagef("--identity %s: want %s or %s", f.identify, identityNone, identityAddress)
	}
	if err := f.codec(s, &c); err != nil {
		return l7.Config{}, err
	}
	if err := f.byProxyConfig(s, &c, log); err != nil {
		return l7.Config{}, err
	}
	return c, nil
}

// codec sets by what connections are handed over.
func (f flags) codec(s surroundings, c *l7.Config) error {
	c.ProxyOnly = true
	for _, name := range f.codecs {
		switch intent.Codec(name) {
		case intent.OriginalDst:
			c.ProxyOnly = false
		case intent.ProxyV2:
			c.ProxyPort = f.proxyPort
		case intent.KmeshTLV:
			return usagef("--codec %s: only Kmesh's own Envoy reads such a header: serve original-dst or proxy-v2 here", name)
		default:
			return usagef("--codec %s: want original-dst, proxy-v2, or both", name)
		}
	}
	if f.hboneOnly && s.given("codec") {
		return usagef("--hbone-only and --codec: give one of them")
	}
	switch {
	case len(f.codecs) == 0:
		return usagef("--codec: want original-dst, proxy-v2, or both")
	case c.ProxyPort == 0 && c.ProxyOnly:
		return usagef("--proxy-port 0: a port is needed")
	case !f.hboneOnly && !c.ProxyOnly:
		c.HandOff = handoff.Ready
	}
	return nil
}

// orNone turns the zero of a flag, which means none, into that of Config.
func orNone[T ~int64](d T) T {
	if d == 0 {
		return -1
	}
	return d
}

// directory returns the one of --dir, or a temporary one that remove takes away.
func (f flags) directory() (dir string, remove func() error, err error) {
	if f.dir != "" {
		if err := os.MkdirAll(f.dir, 0o700); err != nil {
			return "", nil, usagef("--dir: %w", err)
		}
		return f.dir, func() error { return nil }, nil
	}
	return temporary(writable[:])
}

// writable are where a directory for sockets may be made: the usual place, and, where the
// root is read-only, what istiod's template mounts for its own image.
var writable = [...]string{"", "/etc/istio/proxy", "/var/lib/istio/data"}

// temporary makes a directory in the first of the places where that is possible.
func temporary(places []string) (dir string, remove func() error, err error) {
	var errs []error
	for _, place := range places {
		if dir, err = os.MkdirTemp(place, "duomesh-waypoint-"); err == nil {
			return dir, func() error { return os.RemoveAll(dir) }, nil
		}
		errs = append(errs, err)
	}
	return "", nil, fmt.Errorf("make a directory for sockets (--dir names one): %w", errors.Join(errs...))
}

// place is where the waypoint stands.
func (f flags) place(s surroundings) (intent.Place, error) {
	p := intent.Place{Node: f.node, Network: s.env("ISTIO_META_NETWORK"), Cluster: s.env("ISTIO_META_CLUSTER_ID")}
	parts := strings.Split(f.locality, "/")
	if len(parts) > 3 || f.locality != "" && slices.Contains(parts, "") {
		return p, usagef("--locality %s: want REGION[/ZONE[/SUBZONE]]", f.locality)
	}
	for i, to := range []*string{&p.Locality.Region, &p.Locality.Zone, &p.Locality.Subzone}[:len(parts)] {
		*to = parts[i]
	}
	return p, nil
}
