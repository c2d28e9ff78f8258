package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// HandOffListener is the name of the listener that takes handed-over connections.
const HandOffListener = "handoff_direct"

// ProxyListener is the name of the one to which they come with a PROXY header.
const ProxyListener = "handoff_proxy_v2"

// Config says for whom is rendered.
type Config struct {
	// Waypoint is the name of the waypoint in the Snapshot.
	Waypoint string
	// Place is where this replica stands: what may be chosen depends on it.
	Place intent.Place
	// Port is the port of hand-offs by SO_ORIGINAL_DST, ProxyPort that of hand-offs by a
	// PROXY header, in host byte order; 0: none.
	Port, ProxyPort uint16
	// Expose are ports of the waypoint's own that lead to a service's chain without a
	// hand-off, for those who dial it themselves.
	Expose []Expose
}

// Expose is one such port.
type Expose struct {
	// At is the port that the waypoint listens on.
	At uint16
	// Service is the Key of the service, Port its port.
	Service string
	Port    uint16
}

// Services are those whose connections come to the waypoint, in the order of the
// Snapshot.
func (c Config) Services(s intent.Snapshot) []*intent.Service {
	var all []*intent.Service
	for _, svc := range s.Services {
		if svc.Waypoint != nil && svc.Waypoint.Name == c.Waypoint {
			all = append(all, svc)
		}
	}
	return all
}

// Rendered is a configuration whose listener can still be joined with another's.
type Rendered struct {
	port   uint16
	proxy  uint16
	chains []chain
	ranges []addressed
	expose map[uint16]string // ports of the waypoint's own, and their chains
	// out has everything but the listener.
	out ads.State
}

// Empty reports whether no connection comes to the waypoint.
func (r Rendered) Empty() bool { return len(r.chains) == 0 }

// Render makes the whole configuration. It depends on nothing but its arguments, and
// equal Snapshots give equal bytes.
func (c Config) Render(s intent.Snapshot) (Rendered, error) {
	r := renderer{
		Config: c, services: map[string]*intent.Service{}, routes: map[string][]*intent.Route{}, needed: map[string]cluster{},
		Rendered: Rendered{port: c.Port, proxy: c.ProxyPort, expose: map[uint16]string{}, out: ads.State{ads.Clusters: {}, ads.Endpoints: {}, ads.Routes: {}}},
	}
	for _, svc := range s.Services {
		r.services[svc.Key()] = svc
	}
	mine := c.Services(s)
	for _, route := range s.Routes {
		r.routes[route.Service] = append(r.routes[route.Service], route)
	}
	for _, svc := range mine {
		if err := r.service(svc); err != nil {
			return Rendered{}, err
		}
	}
	for _, w := range s.Workloads {
		if w.Waypoint != nil && w.Waypoint.Name == c.Waypoint && !w.HostNetwork {
			r.workload(w)
		}
	}
	if err := r.finish(); err != nil {
		return Rendered{}, err
	}
	return r.Rendered, nil
}

// renderer collects what one Snapshot needs.
type renderer struct {
	Config
	Rendered
	services map[string]*intent.Service
	routes   map[string][]*intent.Route
	needed   map[string]cluster
}

// cluster is the endpoints of one service port.
type cluster struct {
	name    string
	service *intent.Service
	port    intent.Port
}

// chainName is the name that istiod gives to the chain, the cluster and the route of
// one service port.
func chainName(svc *intent.Service, p intent.Port) string {
	return fmt.Sprintf("inbound-vip|%d|%s|%s", p.Port, portName(p), hostname(svc))
}

func portName(p intent.Port) string {
	switch {
	case p.Name != "":
		return p.Name
	case isHTTP(p):
		return "http"
	}
	return "tcp"
}

func hostname(svc *intent.Service) string {
	if svc.Hostname != "" {
		return svc.Hostname
	}
	return svc.Name + "." + svc.Namespace + ".svc.cluster.local"
}

// isHTTP reads the protocol from the port's name, as Istio does: http, http2, grpc or
// grpc-web, alone or before a hyphen.
func isHTTP(p intent.Port) bool {
	word, _, _ := strings.Cut(p.Name, "-")
	return p.Protocol == intent.TCP && slices.Contains([]string{"http", "http2", "grpc"}, word)
}

// isHTTP2 reports whether the servers behind the port must be spoken to in HTTP/2.
func isHTTP2(p intent.Port) bool {
	return isHTTP(p) && !strings.HasPrefix(p.Name, "http-") && p.Name != "http"
}

// service renders a chain for each TCP port and remembers its addresses.
func (r *renderer) service(svc *intent.Service) error {
	ports := map[uint16]string{}
	http := false
	for _, p := range svc.Ports {
		if p.Protocol != intent.TCP {
			continue // UDP never goes to a waypoint
		}
		name := chainName(svc, p)
		for _, e := range r.Expose {
			if e.Service == svc.Key() && e.Port == p.Port {
				r.expose[e.At] = name
			}
		}
		ports[p.Port] = name
		r.need(name, svc, p)
		if !isHTTP(p) {
			r.tcpChain(name)
			continue
		}
		http = true
		if err := r.httpChain(name, svc, p); err != nil {
			return err
		}
	}
	if len(r.routes[svc.Key()]) > 0 && !http {
		return fmt.Errorf("route of service %s: none of its ports is HTTP: a port is by its name, http or http-…, http2, grpc", svc.Key())
	}
	for _, a := range svc.Addresses {
		r.ranges = append(r.ranges, addressed{address: a, ports: ports})
	}
	return nil
}

func (r *renderer) need(name string, svc *intent.Service, p intent.Port) {
	r.needed[name] = cluster{name, svc, p}
}

// backend finds the cluster of a route's backend.
func (r *renderer) backend(of *intent.Service, b intent.Backend) (string, error) {
	svc := r.services[b.Service]
	if svc == nil {
		return "", fmt.Errorf("route of service %s: backend %s: no such service", of.Key(), b.Service)
	}
	i := slices.IndexFunc(svc.Ports, func(p intent.Port) bool { return p.Port == b.Port && p.Protocol == intent.TCP })
	if i < 0 {
		return "", fmt.Errorf("route of service %s: backend %s: no TCP port %d", of.Key(), b.Service, b.Port)
	}
	name := chainName(svc, svc.Ports[i])
	r.need(name, svc, svc.Ports[i])
	return name, nil
}

// workload sends the connections to a workload's own addresses on, whatever the port.
func (r *renderer) workload(w *intent.Workload) {
	for _, a := range w.Addresses {
		r.ranges = append(r.ranges, addressed{address: a, always: directChain})
	}
}
