// Package sds keeps a waypoint's certificate fresh and serves it to Envoy by its secret
// discovery service (SDS).
package sds

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/internal/istiod"
)

// The names under which istiod's resources ask for secrets.
const (
	own   = "default"
	roots = "ROOTCA"
)

// Keeper holds the newest certificate, and serves it.
type Keeper struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	// fetch gets another certificate.
	fetch func(ctx context.Context) (istiod.Certificate, error)
	log   *slog.Logger

	mu      sync.Mutex
	now     *istiod.Certificate
	version uint64
	problem string
	changed chan struct{} // closed, and replaced, with each certificate
}

// NewKeeper makes a Keeper that has nothing until Run.
func NewKeeper(fetch func(ctx context.Context) (istiod.Certificate, error), log *slog.Logger) *Keeper {
	return &Keeper{fetch: fetch, log: log, changed: make(chan struct{})}
}

// Waiting says why there is no certificate that is good, or "".
func (k *Keeper) Waiting() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.now != nil && time.Now().Before(k.now.NotAfter):
		return ""
	case k.now != nil:
		return "a certificate in place of the one that has expired: " + k.problem
	case k.problem != "":
		return k.problem
	}
	return "a certificate from istiod's CA"
}

// Run fetches a certificate, and another before half of its life is over, until ctx
// ends. While none can be had it tries again, and the last one is served.
func (k *Keeper) Run(ctx context.Context) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval = 250*time.Millisecond, 15*time.Second
	for {
		wait := k.renew(ctx, waits)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// fetchTime bounds one call of the CA.
const fetchTime = 10 * time.Second

// renew fetches once, and returns how long to wait until the next time.
func (k *Keeper) renew(ctx context.Context, waits *backoff.ExponentialBackOff) time.Duration {
	one, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	c, err := k.fetch(one)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		wait := waits.NextBackOff()
		k.problem = err.Error()
		k.log.Warn("no certificate", "error", err, "again in", wait)
		return wait
	}
	waits.Reset()
	k.now, k.problem = &c, ""
	k.version++
	close(k.changed)
	k.changed = make(chan struct{})
	k.log.Info("a new certificate", "identity", c.SPIFFE, "until", c.NotAfter)
	return max(time.Until(c.Renewal()), time.Second)
}

// secrets are those of names that there are, with their version.
func (k *Keeper) secrets(names []string) (string, []*anypb.Any, <-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*anypb.Any
	for _, name := range names {
		s := k.secret(name)
		if s == nil {
			continue
		}
		packed, err := ads.Pack(s)
		if err != nil {
			return "", nil, nil, err
		}
		all = append(all, packed)
	}
	return strconv.FormatUint(k.version, 10), all, k.changed, nil
}

// secret is one by its name; nil when there is none, or none yet.
func (k *Keeper) secret(name string) *tls.Secret {
	inline := func(b []byte) *core.DataSource {
		return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
	}
	if k.now == nil {
		return nil
	}
	switch name {
	case own:
		return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
			CertificateChain: inline(k.now.Chain), PrivateKey: inline(k.now.Key),
		}}}
	case roots:
		return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			TrustedCa: inline(k.now.Roots),
		}}}
	}
	return nil
}

// StreamSecrets implements the service.
func (k *Keeper) StreamSecrets(g secret.SecretDiscoveryService_StreamSecretsServer) error {
	requests := make(chan *discovery.DiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			q, err := g.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- q:
			case <-g.Context().Done():
				return
			}
		}
	}()
	var names []string
	var changed <-chan struct{}
	for nonce := 0; ; {
		select {
		case q, open := <-requests:
			if !open {
				return nil
			}
			if q.ErrorDetail != nil {
				k.log.Error("Envoy refuses a secret", "names", q.ResourceNames, "error", q.ErrorDetail.GetMessage())
			}
			if q.ResponseNonce != "" && slices.Equal(q.ResourceNames, names) {
				continue // its answer to the last one
			}
			names = q.ResourceNames
		case <-changed:
		}
		version, all, next, err := k.secrets(names)
		if err != nil {
			return err
		}
		changed = next
		if len(all) == 0 {
			continue // Envoy waits
		}
		nonce++
		if err := g.Send(&discovery.DiscoveryResponse{
			TypeUrl: ads.Secrets, VersionInfo: version, Nonce: fmt.Sprint(nonce), Resources: all,
		}); err != nil {
			return err
		}
	}
}

// DeltaSecrets implements the service: istiod's resources do not ask in this form.
func (*Keeper) DeltaSecrets(secret.SecretDiscoveryService_DeltaSecretsServer) error {
	return status.Error(codes.Unimplemented, "secrets are served in the whole form alone")
}
