package istiod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	// First is set for the first of its type on a stream: a resource that was refused
	// before, and that is not in it, is gone.
	First bool
}

// Handler takes what a Subscription receives. Its methods are called one after the
// other; while one runs nothing more is read, so that a slow handler slows istiod
// down instead of being flooded.
type Handler interface {
	// Connected: istiod has taken a stream and begins to answer. Take comes next.
	Connected()
	// Take takes an answer. It returns why resources cannot be used, by name: they
	// are refused (NACK) with that reason and asked for again after the next
	// connect; the others were taken. Of a refused one the version that was taken
	// before is still held: istiod says when it is gone.
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
	// Answer bounds the wait for the first answer of a stream; 0 means a minute. An
	// istiod that answers pings and nothing else is given up then.
	Answer time.Duration
	// Token is the file of the token that is shown; it is read to say why istiod
	// did not accept it.
	Token string
}

// Backoff says how long to wait between streams that deliver nothing. It begins
// anew once a stream has delivered. Where nobody listens, it costs nobody much to
// look again: the wait is never more than a third of Most then.
type Backoff struct{ First, Most time.Duration }

// mostWait is Backoff.Most where it is not given.
const mostWait = 15 * time.Second

func (b Backoff) start() *backoff.ExponentialBackOff {
	w := backoff.NewExponentialBackOff()
	w.InitialInterval, w.MaxInterval = 250*time.Millisecond, mostWait
	if b.First > 0 {
		w.InitialInterval = b.First
	}
	if b.Most > 0 {
		w.MaxInterval = b.Most
	}
	w.Reset()
	return w
}

// after is how long to wait after a stream that ended for a reason: next, or less
// where nobody listens.
func (b Backoff) after(why error, next time.Duration) time.Duration {
	if !isAbsent(why) {
		return next
	}
	most := cmp.Or(b.Most, mostWait) / 3
	return min(next, most/2+rand.N(most/2+1)) // not all nodes at once
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
		why := explain(err, s.Token)
		wait := s.Wait.after(why, waits.NextBackOff())
		h.Disconnected(why, wait)
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
func (s Subscription) stream(outer context.Context, conn grpc.ClientConnInterface, h Handler, held map[string]map[string]string) (delivered bool, err error) {
	ctx, cancel := context.WithCancel(outer)
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
	within := cmp.Or(s.Answer, time.Minute)
	impatient := time.AfterFunc(within, cancel)
	defer impatient.Stop()
	first := map[string]bool{}
	for _, t := range s.Types {
		first[t] = true
	}
	for {
		answer, err := ads.Recv()
		switch {
		case err != nil && !delivered && ctx.Err() != nil && outer.Err() == nil:
			return false, unanswered(within)
		case err != nil:
			return delivered, err
		case !delivered:
			impatient.Stop()
			h.Connected()
		}
		delivered = true
		reply := take(answer, h, held, first[answer.TypeUrl])
		delete(first, answer.TypeUrl)
		if err := ads.Send(reply); err != nil {
			return delivered, cause(ads, err)
		}
	}
}

// cause is why a stream could not be written to: only reading tells, after what came
// before it ended. Those answers are dropped: they are not held, so the next stream brings
// them again.
func cause(ads grpc.ClientStream, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	for {
		var answer discovery.DeltaDiscoveryResponse
		if err := ads.RecvMsg(&answer); err != nil {
			return err
		}
	}
}

// take hands an answer on and makes what is sent back: an ACK, or a NACK that names
// what was refused and why.
func take(answer *discovery.DeltaDiscoveryResponse, h Handler, held map[string]map[string]string, first bool) *discovery.DeltaDiscoveryRequest {
	reply := &discovery.DeltaDiscoveryRequest{TypeUrl: answer.TypeUrl, ResponseNonce: answer.Nonce}
	versions, known := held[answer.TypeUrl]
	if !known {
		reply.ErrorDetail = &status.Status{
			Code: int32(codes.InvalidArgument), Message: fmt.Sprintf("type %s was not asked for", answer.TypeUrl),
		}
		return reply
	}
	r := Response{TypeURL: answer.TypeUrl, Removed: answer.RemovedResources, First: first}
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
