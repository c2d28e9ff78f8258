package l7

import (
	"context"

	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// Control is where Envoy's configuration comes from: Embedded, or a Relay to istiod.
type Control interface {
	// register adds what Envoy asks by ADS.
	register(s *grpc.Server)
	// secrets adds what Envoy asks by SDS, and reports whether it is to ask at all.
	secrets(s *grpc.Server) bool
	// withhold keeps the hand-off listener from Envoy, or takes it back.
	withhold(yes bool)
	// run works until ctx ends.
	run(ctx context.Context) error
	// served are the host names of the services with a chain, whether connections may
	// come at all, to those or to workloads, and why there is nothing to serve yet, or "".
	served() (hosts []string, any bool, waiting string)
	// source says where it comes from and how far it is.
	source() api.Source
	changes() []api.Change
	// changed is closed when source has something new.
	changed() <-chan struct{}
	close() error
}
