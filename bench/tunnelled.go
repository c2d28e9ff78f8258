package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/dataplane/l7/render"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/netsim"
)

// tunnelled is an Envoy between the tunnels of node proxies. Its bootstrap, its chain
// and its cluster are those of duomesh-l7's waypoint; the tunnels are put around them.
type tunnelled struct {
	server  *grpc.Server
	served  chan error
	process *netsim.Process
	admin   *envoy.Admin
	dir     string
}

// tunnelledStart bounds the start of the Envoy; it takes a second.
const tunnelledStart = 30 * time.Second

// openTunnelled starts it in its pod, and returns when it has its configuration. The
// caller closes it.
func openTunnelled(ctx context.Context, c *netsim.Cluster, m *ambient.Mesh, program string, cfg ambient.Config) (_ *tunnelled, err error) {
	t := &tunnelled{dir: filepath.Join(c.Dir(), proxyPod)}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	control := ads.NewServer()
	if err := t.serve(control); err != nil {
		return nil, err
	}
	state, err := tunnelledState(m, cfg)
	if err != nil {
		return nil, err
	}
	if err := t.start(ctx, c, program); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelledStart)
	defer cancel()
	go func() {
		select {
		case <-t.process.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := control.Publish(ctx, state); err != nil {
		select {
		case <-t.process.Done():
			err = errors.Join(err, t.process.Wait())
		default:
		}
		return nil, err
	}
	return t, nil
}

func (t *tunnelled) socket(name string) string { return filepath.Join(t.dir, name+".sock") }

func (t *tunnelled) serve(control *ads.Server) error {
	l, err := net.Listen("unix", t.socket("xds"))
	if err != nil {
		return fmt.Errorf("listen for Envoy: %w", err)
	}
	t.server, t.served = grpc.NewServer(), make(chan error, 1)
	discovery.RegisterAggregatedDiscoveryServiceServer(t.server, control)
	go func() { t.served <- t.server.Serve(l) }()
	return nil
}

func (t *tunnelled) start(ctx context.Context, c *netsim.Cluster, program string) error {
	limit, err := envoy.Descriptors()
	if err != nil {
		return err
	}
	data, err := envoy.Bootstrap{
		Node: &core.Node{Id: "waypoint~" + proxyPod, Cluster: proxyPod},
		XDS:  t.socket("xds"), Admin: t.socket("envoy"), Connections: envoy.MaxConnections(limit),
	}.JSON()
	if err != nil {
		return err
	}
	path := filepath.Join(t.dir, "bootstrap.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write the bootstrap: %w", err)
	}
	t.admin = envoy.NewAdmin(t.socket("envoy"))
	// It outlives the call.
	t.process, err = c.Start(context.WithoutCancel(ctx), proxyPod, netsim.Command{Argv: []string{
		program, "-c", path, "--disable-hot-restart", "--concurrency", strconv.Itoa(proxyWorkers), "--log-level", "warning",
	}})
	return err
}

func (t *tunnelled) close() error {
	var errs []error
	if t.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		t.process.Stop(ctx)
		cancel()
	}
	if t.admin != nil {
		t.admin.Close()
	}
	if t.server != nil {
		t.server.Stop()
		if err := <-t.served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			errs = append(errs, fmt.Errorf("serve Envoy: %w", err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(t.dir))...)
}

// tunnelledState is what the Envoy is given: what a waypoint of duomesh would have for
// the same service, with the tunnels in place of hand-off and plaintext.
func tunnelledState(m *ambient.Mesh, cfg ambient.Config) (ads.State, error) {
	service := cfg.Services[0]
	state, err := chainOf(service, addressOf(cfg, service.Pod))
	if err != nil {
		return nil, err
	}
	own, err := m.Credentials()
	if err != nil {
		return nil, err
	}
	inside := new(listener.Listener)
	if err := state[ads.Listeners][render.ExposedListener(exposedPort)].Any.UnmarshalTo(inside); err != nil {
		return nil, fmt.Errorf("the chain of service %s: %w", service.Name, err)
	}
	tunnel := ambient.Tunnel{
		Own: own, Service: netip.AddrPortFrom(service.VIP, service.Port), Filters: inside.FilterChains[0].Filters,
		Server: netip.AddrPortFrom(addressOf(cfg, service.Pod), service.Target),
		Peer:   ambient.Identity(ambient.Namespace, service.Pod),
	}
	if err := throughTunnel(state, tunnel); err != nil {
		return nil, err
	}
	state[ads.Listeners] = ads.Set{}
	listeners, err := tunnel.Listeners()
	if err != nil {
		return nil, err
	}
	clusters, err := tunnel.Clusters()
	if err != nil {
		return nil, err
	}
	return state, errors.Join(add(state[ads.Listeners], listeners), add(state[ads.Clusters], clusters))
}

func addressOf(cfg ambient.Config, pod string) netip.Addr {
	for _, p := range cfg.Pods {
		if p.Name == pod {
			return p.Address
		}
	}
	return netip.Addr{}
}

// chainOf is duomesh's own configuration for the service, at a port of its own.
func chainOf(s ambient.Service, server netip.Addr) (ads.State, error) {
	waypoint := &intent.Waypoint{Name: ambient.Namespace + "/" + proxyPod, Codec: intent.OriginalDst}
	svc := &intent.Service{
		Name: s.Name, Namespace: ambient.Namespace, Addresses: []netip.Addr{s.VIP}, Waypoint: waypoint,
		Ports:     []intent.Port{{Port: s.Port, Target: s.Target, Name: "http", Protocol: intent.TCP}},
		Endpoints: []intent.Endpoint{{Workload: &intent.Workload{UID: s.Pod, Name: s.Pod, Namespace: ambient.Namespace, Addresses: []netip.Addr{server}, Weight: 1}}},
	}
	r, err := render.Config{
		Waypoint: waypoint.Name, Port: exposedPort + 1,
		Expose: []render.Expose{{At: exposedPort, Service: svc.Key(), Port: s.Port}},
	}.Render(intent.Snapshot{Services: []*intent.Service{svc}})
	if err != nil {
		return nil, err
	}
	return r.State()
}

// throughTunnel sends what the chain's clusters send into the tunnel.
func throughTunnel(state ads.State, t ambient.Tunnel) error {
	for name, body := range state[ads.Clusters] {
		c := new(cluster.Cluster)
		if err := body.Any.UnmarshalTo(c); err != nil {
			return fmt.Errorf("cluster %s: %w", name, err)
		}
		ambient.Inside(c)
		e := new(endpoint.ClusterLoadAssignment)
		if err := state[ads.Endpoints][name].Any.UnmarshalTo(e); err != nil {
			return fmt.Errorf("endpoints of %s: %w", name, err)
		}
		for _, place := range e.Endpoints {
			for _, one := range place.LbEndpoints {
				one.GetEndpoint().Address = t.Backend()
			}
		}
		var errs [2]error
		state[ads.Clusters][name], errs[0] = ads.NewBody(c)
		state[ads.Endpoints][name], errs[1] = ads.NewBody(e)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
	}
	return nil
}

type named interface {
	proto.Message
	GetName() string
}

func add[T named](to ads.Set, all []T) error {
	for _, m := range all {
		body, err := ads.NewBody(m)
		if err != nil {
			return err
		}
		to[m.GetName()] = body
	}
	return nil
}
