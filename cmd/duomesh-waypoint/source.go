package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spf13/pflag"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/render"
	"github.com/duomesh/duomesh/dataplane/source/file"
)

// xdsFlags say how istiod is known to be the right one.
type xdsFlags struct {
	roots string
	token string
	name  string
	plain bool
}

func (x *xdsFlags) define(set *pflag.FlagSet) {
	set.StringVar(&x.roots, "xds-roots", "/var/run/secrets/istio/root-cert.pem", "PEM `FILE` of the certificates that sign istiod's")
	set.StringVar(&x.token, "xds-token", "/var/run/secrets/tokens/istio-token", "`FILE` with the ServiceAccount token that istiod is shown")
	set.StringVar(&x.name, "xds-name", "", "`NAME` that istiod's certificate must say; istiod.istio-system.svc when not given")
	set.BoolVar(&x.plain, "xds-plaintext", false, "speak to istiod without TLS and token: for tests on one machine")
}

// control finds the control plane of --source, CA_ADDR or XDS_ADDRESS.
func (f flags) control(ctx context.Context, s surroundings, c *l7.Config) (l7.Control, error) {
	given := f.source
	for _, name := range []string{"XDS_ADDRESS", "CA_ADDR"} {
		if address := s.env(name); given == "" && address != "" {
			given = "xds:" + address
		}
	}
	kind, where, _ := strings.Cut(given, ":")
	switch {
	case given == "":
		return nil, usagef("--source file:PATH or xds:ADDRESS is needed")
	case kind == "file" && where != "":
		return f.fileControl(ctx, s, c, given, where)
	case kind == "xds" && where != "":
		if _, _, err := net.SplitHostPort(where); err != nil {
			return nil, usagef("--source %s: want xds:HOST:PORT: %w", given, err)
		}
		return f.xdsControl(s, c, given, where)
	}
	return nil, usagef("--source %s: want file:PATH or xds:ADDRESS", given)
}

func (f flags) fileControl(ctx context.Context, s surroundings, c *l7.Config, given, path string) (l7.Control, error) {
	if c.ByAddress {
		return nil, usagef("--identity %s is for an istiod: a file has no rules that ask who the client is", f.identify)
	}
	if f.name == "" {
		return nil, usagef("--name NAMESPACE/NAME is needed: which of the waypoints in %s this is", path)
	}
	place, err := f.place(s)
	if err != nil {
		return nil, err
	}
	if c.Expose, err = f.exposed(); err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this machine: %w", err)
	}
	c.Node = &core.Node{Id: "waypoint~" + f.name + "~" + host, Cluster: f.name}
	seen, err := file.Watch(ctx, path, c.Log)
	if err != nil {
		return nil, err
	}
	updates := make(chan l7.Update)
	go func() {
		defer close(updates)
		for u := range seen {
			select {
			case updates <- l7.Update{Snapshot: u.Snapshot, Version: u.Version, Err: u.Err}:
			case <-ctx.Done():
			}
		}
	}()
	return l7.NewEmbedded(*c, place, given, updates), nil
}

// exposed reads --expose.
func (f flags) exposed() ([]render.Expose, error) {
	var all []render.Expose
	for _, text := range f.expose {
		at, to, ok := strings.Cut(text, "=")
		i := strings.LastIndex(to, ":")
		if !ok || i < 0 || !strings.Contains(to[:i], "/") {
			return nil, usagef("--expose %s: want PORT=NAMESPACE/NAME:PORT", text)
		}
		own, err := strconv.ParseUint(at, 10, 16)
		port, err2 := strconv.ParseUint(to[i+1:], 10, 16)
		if err != nil || err2 != nil || own == 0 || port == 0 {
			return nil, usagef("--expose %s: a port is 1 to 65535", text)
		}
		all = append(all, render.Expose{At: uint16(own), Service: to[:i], Port: uint16(port)})
	}
	return all, nil
}
