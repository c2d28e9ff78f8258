package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/duomesh/duomesh/dataplane/agent"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/source/file"
	"github.com/duomesh/duomesh/dataplane/source/xds"
	"github.com/duomesh/duomesh/internal/istiod"
)

// source is where the desired state comes from.
type source struct {
	name string
	// metrics are those of the source.
	metrics []prometheus.Collector
	// watch begins to watch; pass hands updates on until ctx ends.
	watch func(ctx context.Context, to chan<- agent.Update) (pass func(), err error)
}

// from finds the source of --source or XDS_ADDRESS.
func (f flags) from(env func(string) string, place intent.Place, log *slog.Logger) (source, error) {
	given := f.source
	if address := env("XDS_ADDRESS"); address != "" {
		if given != "" && given != "xds:"+address {
			return source{}, usagef("--source %s and XDS_ADDRESS=%s: give one of them", given, address)
		}
		if err := checkAddress(address); err != nil {
			return source{}, usagef("XDS_ADDRESS=%s: want HOST:PORT of an istiod: %w", address, err)
		}
		given = "xds:" + address
	}
	kind, where, _ := strings.Cut(given, ":")
	switch {
	case given == "":
		return source{}, usagef("--source file:PATH or xds:ADDRESS is needed")
	case kind == "file" && where != "":
		return fileSource(given, where, log), nil
	case kind == "xds" && where != "":
		return f.xdsSource(given, where, env, place, log)
	}
	return source{}, usagef("--source %s: want file:PATH or xds:ADDRESS", given)
}

func fileSource(name, path string, log *slog.Logger) source {
	return source{name, nil, func(ctx context.Context, to chan<- agent.Update) (func(), error) {
		seen, err := file.Watch(ctx, path, log)
		return func() {
			pass(ctx, seen, to, func(u file.Update) agent.Update {
				return agent.Update{Snapshot: u.Snapshot, Version: u.Version, Err: u.Err}
			})
		}, err
	}}
}

func (f flags) xdsSource(name, address string, env func(string) string, place intent.Place, log *slog.Logger) (source, error) {
	if err := checkAddress(address); err != nil {
		return source{}, usagef("--source %s: want xds:HOST:PORT: %w", name, err)
	}
	if !isSubdomain(place.Node) {
		return source{}, usagef("--node %s: want %s: istiod knows it by that", place.Node, wantNode)
	}
	config := xds.Config{
		Server: istiod.Server{
			Address: address, Plaintext: f.plain, Roots: f.roots, Token: f.token, Cluster: place.Cluster,
		},
		Identity: identity(env, place), Network: place.Network, Metrics: xds.NewMetrics(), Log: log,
	}
	if err := f.xdsOptions(&config); err != nil {
		return source{}, err
	}
	return source{name, []prometheus.Collector{config.Metrics}, func(ctx context.Context, to chan<- agent.Update) (func(), error) {
		config := config
		if err := f.kube.handoffs(ctx, &config, log); err != nil {
			return nil, err
		}
		seen, err := xds.Watch(ctx, config)
		return func() {
			pass(ctx, seen, to, func(u xds.Update) agent.Update {
				return agent.Update{
					Snapshot: u.Snapshot, Version: u.Version, Lost: u.Err, Unused: u.Unused,
					Policies: u.Policies, Received: u.Received,
				}
			})
		}, err
	}}, nil
}

// checkAddress refuses what can be the address of no istiod: a stream would be tried for
// ever.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err != nil && !isDNSName(host) {
		return fmt.Errorf("%q is no name and no address of a host", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port from 1 to 65535", port)
	}
	return nil
}

// checkHandoff refuses a codec that there is none, whatever the source.
func (f flags) checkHandoff() error {
	if f.handoff != "" && intent.Codec(f.handoff).Port() == 0 {
		return usagef("--handoff %s: want original-dst, proxy-v2 or kmesh-tlv", f.handoff)
	}
	return nil
}

// xdsOptions sets what the flags say of how istiod's resources are used.
func (f flags) xdsOptions(c *xds.Config) error {
	c.Handoff = intent.Codec(f.handoff)
	switch f.policy {
	case policyWarn:
	case policyRefuse:
		c.RefuseUnenforced = true
	default:
		return usagef("--unenforced-policy %s: want warn or refuse", f.policy)
	}
	resolv, err := dns.ClientConfigFromFile(f.resolv)
	if err != nil {
		return usagef("--resolv-conf: %w", err)
	}
	for _, server := range resolv.Servers {
		c.Names.Servers = append(c.Names.Servers, net.JoinHostPort(server, resolv.Port))
	}
	return nil
}

// identity is that of a node's dataplane: istiod sends the workload API to what it
// knows as a ztunnel.
func identity(env func(string) string, place intent.Place) istiod.Identity {
	or := func(name, otherwise string) string {
		if v := env(name); v != "" {
			return v
		}
		return otherwise
	}
	return istiod.Identity{
		Kind: "ztunnel", IP: or("INSTANCE_IP", "127.0.0.1"), Pod: or("POD_NAME", "duomesh-agent-"+place.Node),
		Namespace: or("POD_NAMESPACE", "istio-system"), Node: place.Node,
		Metadata: map[string]any{
			"CLUSTER_ID": place.Cluster, "NETWORK": place.Network,
			"SERVICE_ACCOUNT": or("SERVICE_ACCOUNT", "duomesh-agent"), "MESH_ID": or("MESH_ID", "cluster.local"),
		},
	}
}

// pass hands updates on until their channel is closed.
func pass[T any](ctx context.Context, from <-chan T, to chan<- agent.Update, as func(T) agent.Update) {
	for u := range from {
		select {
		case to <- as(u):
		case <-ctx.Done():
		}
	}
}
