package l7

import (
	"context"
	"fmt"
	"sync"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/dataplane/l7/relay"
	"github.com/duomesh/duomesh/dataplane/l7/sds"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Istiod is the control plane of a real istiod: its configuration, changed where stock
// Envoy needs that, and a certificate of its CA.
type Istiod struct {
	name   string
	server istiod.Server
	conn   *grpc.ClientConn
	relay  *relay.Relay
	keeper *sds.Keeper
}

// NewIstiod makes the Control of a waypoint that asks an istiod as c.Node. name is that
// of the source, for people.
func NewIstiod(c Config, server istiod.Server, name string) (*Istiod, error) {
	c = c.withDefaults()
	r, err := relay.New(relay.Config{
		Istiod: server, Node: c.Node, Ports: relay.Ports{Port: c.port(), ProxyPort: c.ProxyPort}, Hold: max(c.Hold, 0),
		ByAddress: c.ByAddress, Idle: c.Idle, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	i := &Istiod{name: name, server: server, relay: r}
	if i.conn, err = server.Connect(); err != nil {
		return nil, err
	}
	i.keeper = sds.NewKeeper(func(ctx context.Context) (istiod.Certificate, error) {
		return istiod.NewCertificate(ctx, i.conn, server.Token, 0)
	}, c.Log)
	return i, nil
}

func (i *Istiod) register(s *grpc.Server) { i.relay.Register(s) }

func (i *Istiod) secrets(s *grpc.Server) bool {
	secret.RegisterSecretDiscoveryServiceServer(s, i.keeper)
	return true
}

func (i *Istiod) withhold(yes bool) { i.relay.Withhold(yes) }

func (i *Istiod) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { i.keeper.Run(ctx) })
	return i.relay.Run(ctx)
}

func (i *Istiod) served() (hosts []string, any bool, waiting string) {
	s, _ := i.relay.State()
	any = len(s.Hosts)+s.Workloads > 0
	switch {
	case i.keeper.Waiting() != "":
		return nil, false, i.keeper.Waiting()
	case s.Seen == "" && s.Error != "":
		return nil, false, s.Error
	case s.Seen == "":
		return nil, false, "the first configuration from " + i.name
	case i.relay.Sourceless():
		return nil, false, "who has which address, from " + i.name
	case s.Refused != "" && !any:
		return nil, false, s.Refused
	case !s.Listens:
		return nil, false, "Envoy to take the first listeners from " + i.name
	}
	// Without a service it is ready all the same: nobody comes, and who makes a waypoint
	// before the services that use it would see it started again and again.
	return s.Hosts, any, ""
}

func (i *Istiod) source() api.Source {
	s, _ := i.relay.State()
	problem := s.Refused
	if problem == "" {
		problem = s.Error
	}
	return api.Source{Name: i.name, Applied: s.Taken, Seen: s.Seen, Problem: problem}
}

func (i *Istiod) changes() []api.Change {
	s, _ := i.relay.State()
	return s.Changes
}

func (i *Istiod) changed() <-chan struct{} {
	_, changed := i.relay.State()
	return changed
}

func (i *Istiod) close() error {
	if err := i.conn.Close(); err != nil {
		return fmt.Errorf("close the connection to istiod: %w", err)
	}
	return nil
}
