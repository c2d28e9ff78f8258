package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
)

// Binaries are the programs that are run, by their paths.
type Binaries struct {
	Etcd      string
	APIServer string
	Istiod    string
	// Istioctl makes the manifests of the istiod beside it.
	Istioctl string
	// GatewayCRDs is a directory with the definitions of the Gateway API; empty
	// leaves that API out.
	GatewayCRDs string
}

// Check reports the first program that is not there.
func (b Binaries) Check() error {
	for _, p := range []struct{ name, path string }{
		{"etcd", b.Etcd}, {"kube-apiserver", b.APIServer}, {"istiod", b.Istiod}, {"istioctl", b.Istioctl},
	} {
		if p.path == "" {
			return fmt.Errorf("control plane: no path of %s is given", p.name)
		}
		if s, err := os.Stat(p.path); err != nil {
			return fmt.Errorf("control plane: %s: %w", p.name, err)
		} else if s.IsDir() || s.Mode()&0o111 == 0 {
			return fmt.Errorf("control plane: %s: %s is no program", p.name, p.path)
		}
	}
	return nil
}

// Command is a program to start.
type Command struct {
	Argv []string
	// Env is the whole environment.
	Env []string
	Dir string
	// Output gets what the program says; it stays the caller's.
	Output *os.File
}

// Process is a program that was started.
type Process interface {
	PID() int
	// Done is closed when the process has ended; Wait says how.
	Done() <-chan struct{}
	Wait() error
	Signal(s os.Signal) error
	// Stop ends it, kindly first, and waits for that.
	Stop(ctx context.Context)
}

// Config is how a control plane is opened.
type Config struct {
	Binaries Binaries
	// Start starts a program in the control plane's own namespace. The process
	// outlives the call.
	Start func(Command) (Process, error)
	// Dial connects to an address as it is meant in that namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Dir is for keys, data and what programs are configured with: a directory
	// that only root reaches. It stays the caller's.
	Dir string
	// Logs is the directory for what the programs say; empty means Dir.
	Logs string
	// Addresses are where others reach the control plane, IPv4 first.
	Addresses []netip.Addr
	// Services are the ranges of virtual addresses, at most one of each family,
	// IPv4 first.
	Services []netip.Prefix
	// IstiodEnv is added to istiod's environment, as "NAME=value".
	IstiodEnv []string
	// Log takes what is no error; nil discards it.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if err := c.Binaries.Check(); err != nil {
		return c, err
	}
	if c.Start == nil || c.Dial == nil || c.Dir == "" || len(c.Addresses) == 0 || len(c.Services) == 0 {
		return c, errors.New("control plane: how to start and reach it, its directory and its addresses are needed")
	}
	if c.Logs == "" {
		c.Logs = c.Dir
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// ClusterID is the name by which istiod knows its cluster.
const ClusterID = "Kubernetes"

// HostName is the name of the control plane's own Node.
const HostName = "control-plane"

// RootNamespace is istiod's own namespace.
const RootNamespace = "istio-system"

// The ports of the control plane, on all its addresses.
const (
	APIServerPort = 6443
	// XDSPort wants TLS and a token.
	XDSPort = 15012
	// MonitoringPort has istiod's metrics and, on the loopback, its debug pages.
	MonitoringPort = 15014

	etcdPort  = 2379
	peerPort  = 2380
	readyPort = 8080
)

// Step is one part of the start and how long it took; parts run side by side.
type Step struct {
	Name string
	Took time.Duration
}
