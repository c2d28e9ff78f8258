package l7

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/duomesh/duomesh/dataplane/l7/render"
)

// The ports of a waypoint, as Istio's own has them, and the hand-off port.
const (
	HandOffPort     = 15029
	MetricsAddress  = ":15020"
	ReadyAddress    = ":15021"
	EnvoyMetrics    = ":15090"
	AdminAddress    = "127.0.0.1:15200"
	DefaultDrain    = 5 * time.Second
	DefaultMinDrain = 3 * time.Second
	DefaultHold     = 5 * time.Second
	maxSocketPath   = 107
	defaultLogLevel = "warning"
)

// Config is a waypoint. Every surrounding is handed in.
type Config struct {
	// Name is the waypoint's, "namespace/name", as in the Snapshot.
	Name string
	// Node is who Envoy is, to those who configure it.
	Node *core.Node
	// Dir is a directory for sockets and the bootstrap, of this waypoint alone. It
	// exists, and stays the caller's.
	Dir string
	// Envoy is the path of the program.
	Envoy string
	// Concurrency is the number of Envoy's workers; 0 means one for each processor.
	Concurrency int
	// LogLevel and ComponentLogLevel are Envoy's.
	LogLevel, ComponentLogLevel string
	// Output takes what Envoy says.
	Output io.Writer
	// Port is the hand-off port; 0 means HandOffPort.
	Port uint16
	// ProxyPort is the port of hand-offs by a PROXY header, which need nothing of the
	// node's engine; 0: none. ProxyOnly leaves Port out.
	ProxyPort uint16
	ProxyOnly bool
	// Expose are ports of the waypoint's own for those who dial it themselves; see
	// render.Expose. Embedded only.
	Expose []render.Expose
	// HandOff asks the kernel's hand-off program for its version; it returns why there
	// is none. Nil means that nothing is handed over by SO_ORIGINAL_DST: clients come by
	// HBONE, or with a PROXY header.
	HandOff func() error
	// ByAddress lets rules take the source's address for who the client is: the workload
	// that istiod knows there. Without, what is handed over has no identity. Relayed only.
	ByAddress bool
	// Descriptors is the limit of open files that Envoy is started with.
	Descriptors uint64
	// MaxConnections bounds Envoy's connections below what Descriptors allows; 0 means
	// no lower bound.
	MaxConnections int64
	// Drain is how long connections have to end when the waypoint ends, and MinDrain for
	// how much of that it goes on even without any: clients are still sent here. Hold is
	// how long destinations that left the configuration are still served. 0 means the
	// default, below 0 none.
	Drain, MinDrain, Hold time.Duration
	// Idle is how long istiod may name no service before it is asked anew, the first time;
	// 0 is 5 s, and each time is longer.
	Idle time.Duration
	// Ready, Metrics, EnvoyMetrics and Admin are addresses to listen on; empty means
	// not. Admin may be unix:PATH.
	Ready, Metrics, EnvoyMetrics, Admin string
	Log                                 *slog.Logger
}

// port is that of hand-offs by SO_ORIGINAL_DST, 0 for none.
func (c Config) port() uint16 {
	if c.ProxyOnly {
		return 0
	}
	return c.Port
}

// handOffPorts are those that must listen before connections may come.
func (c Config) handOffPorts() []uint16 {
	var all []uint16
	if c.HandOff != nil {
		all = append(all, c.Port)
	}
	if c.ProxyPort != 0 {
		all = append(all, c.ProxyPort)
	}
	return all
}

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = HandOffPort
	}
	if c.LogLevel == "" {
		c.LogLevel = defaultLogLevel
	}
	if c.Drain == 0 {
		c.Drain = DefaultDrain
	}
	if c.MinDrain == 0 {
		c.MinDrain = DefaultMinDrain
	}
	if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// check reports what keeps a waypoint from being started, before anything is done.
func (c Config) check() error {
	switch {
	case c.Name == "":
		return errors.New("the waypoint has no name")
	case c.Node == nil:
		return errors.New("the waypoint has no node identity")
	case c.ProxyOnly && (c.ProxyPort == 0 || c.HandOff != nil):
		return errors.New("hand-offs by a PROXY header alone have a port of their own, and ask no engine")
	case c.ProxyPort != 0 && c.ProxyPort == c.port():
		return fmt.Errorf("port %d is given to two forms of hand-off", c.ProxyPort)
	case c.Envoy == "":
		return errors.New("no Envoy: make tools fetches one, ENVOY_BIN names yours")
	}
	if info, err := os.Stat(c.Envoy); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("the Envoy at %s is no program", c.Envoy)
	}
	if path := c.socket("envoy"); len(path) > maxSocketPath {
		return fmt.Errorf("directory %s: its path is too long for a socket in it", c.Dir)
	}
	return nil
}

func (c Config) socket(name string) string { return filepath.Join(c.Dir, name+".sock") }

func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		// What a killed predecessor left.
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}
