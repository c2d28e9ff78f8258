package istiod

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

// Resource is one resource of an answer.
type Resource struct {
	Name    string
	Version string
	Body    *anypb.Any
}

// Response is one answer of istiod about one type: what changed, and the names of
// what is gone. The first of a stream has all that the client did not say it has.
type Response struct {
	TypeURL   string
	Resources []Resource
	Removed   []string
}

// Handler takes what a Subscription receives. Its methods are called one after the
// other; while one runs nothing more is read, so that a slow handler slows istiod
// down instead of being flooded.
type Handler interface {
	// Connected: a stream is open and everything was asked for.
	Connected()
	// Take takes an answer. It returns why resources cannot be used, by name: they
	// are refused (NACK) with that reason and asked for again after the next
	// connect; the others were taken.
	Take(r Response) map[string]error
	// Disconnected: a stream has ended, or could not be opened. The next attempt
	// comes after wait.
	Disconnected(err error, wait time.Duration)
}

// Subscription keeps one delta ADS stream open (Envoy's xDS protocol, "Incremental
// xDS") and holds everything of some types.
type Subscription struct {
	// Node is who asks. Types are the type URLs in the order in which they are
	// asked for; each is asked for whole (wildcard).
	Node  *core.Node
	Types []string
	// Wait is the back-off between streams; the zero value is 250 ms growing to
	// 15 s, each ± 50 %.
	Wait Backoff
	// Token is the file of the token that is shown; it is read to say why istiod
	// did not accept it.
	Token string
}

// Backoff says how long to wait between streams that deliver nothing. It begins
// anew once a stream has delivered.
type Backoff struct{ First, Most time.Duration }

func (b Backoff) start() *backoff.ExponentialBackOff {
	w := backoff.NewExponentialBackOff()
	w.InitialInterval, w.MaxInterval = 250*time.Millisecond, 15*time.Second
	if b.First > 0 {
		w.InitialInterval = b.First
	}
	if b.Most > 0 {
		w.MaxInterval = b.Most
	}
	w.Reset()
	return w
}

// Run subscribes until ctx ends, and returns its error. A stream that ends is
// followed by another, which tells istiod what the last one left: then only the
// difference comes.
func (s Subscription) Run(ctx context.Context, conn grpc.ClientConnInterface, h Handler) error {
	held := map[string]map[string]string{} // by type: versions by name
	for _, t := range s.Types {
		held[t] = map[string]string{}
	}
	waits := s.Wait.start()
	for {
		delivered, err := s.stream(ctx, conn, h, held)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if delivered {
			waits.Reset()
		}
		wait := waits.NextBackOff()
		h.Disconnected(explain(err, s.Token), wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// stream runs one stream to its end.
func (s Subscription) stream(ctx context.Context, conn grpc.ClientConnInterface, h Handler, held map[string]map[string]string) (delivered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	for i, t := range s.Types {
		ask := &discovery.DeltaDiscoveryRequest{
			TypeUrl: t, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: held[t],
		}
		if i == 0 {
			ask.Node = s.Node
		}
		if err := ads.Send(ask); err != nil {
			return false, cause(ads, err)
		}
	}
	h.Connected()
	for {
		answer, err := ads.Recv()
		if err != nil {
			return delivered, err
		}
		delivered = true
		if err := ads.Send(take(answer, h, held)); err != nil {
			return delivered, cause(ads, err)
		}
	}
}

// cause is why a stream could not be written to: only reading tells.
func cause(ads grpc.ClientStream, err error) error {
	var end discovery.DeltaDiscoveryResponse
	if read := ads.RecvMsg(&end); read != nil {
		return read
	}
	return err
}

// take hands an answer on and makes what is sent back: an ACK, or a NACK that names
// what was refused and why.
func take(answer *discovery.DeltaDiscoveryResponse, h Handler, held map[string]map[string]string) *discovery.DeltaDiscoveryRequest {
	reply := &discovery.DeltaDiscoveryRequest{TypeUrl: answer.TypeUrl, ResponseNonce: answer.Nonce}
	versions, known := held[answer.TypeUrl]
	if !known {
		reply.ErrorDetail = &status.Status{
			Code: int32(codes.InvalidArgument), Message: fmt.Sprintf("type %s was not asked for", answer.TypeUrl),
		}
		return reply
	}
	r := Response{TypeURL: answer.TypeUrl, Removed: answer.RemovedResources}
	r.Resources = make([]Resource, 0, len(answer.Resources))
	for _, res := range answer.Resources {
		r.Resources = append(r.Resources, Resource{res.Name, res.Version, res.Resource})
	}
	answer.Resources = nil // a handler that lets go of bodies lets go of memory
	refused := h.Take(r)
	for _, name := range r.Removed {
		delete(versions, name)
	}
	for _, res := range r.Resources {
		if refused[res.Name] == nil {
			versions[res.Name] = res.Version
		} else {
			delete(versions, res.Name)
		}
	}
	if len(refused) > 0 {
		reply.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: reasons(refused)}
	}
	return reply
}

// most bounds a NACK: istiod writes it to its log.
const most = 10

// reasons writes refusals in the order of the names.
func reasons(refused map[string]error) string {
	var lines []string
	for name, err := range refused {
		lines = append(lines, name+": "+err.Error())
	}
	slices.Sort(lines)
	if n := len(lines) - most; n > 0 {
		lines = append(lines[:most], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(lines, "; ")
}
