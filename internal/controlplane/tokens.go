package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Audience is that of tokens for istiod.
const Audience = "istio-ca"

// Token says what a ServiceAccount token is for.
type Token struct {
	Namespace      string
	ServiceAccount string
	// Pod binds the token to a Pod that is there; empty binds it to none.
	Pod string
	// Audiences are who takes it; none means the API server.
	Audiences []string
	// Life is how long it is good for; 0 means an hour. The API server gives at
	// least ten minutes.
	Life time.Duration
}

const (
	tokenLife = time.Hour
	// renewAt is the part of a token's life after which another is asked for, as
	// kubelet does.
	renewAt = 0.8
	// renewWait is the pause after a token could not be renewed.
	renewWait = 5 * time.Second
)

// tokens keeps token files fresh.
type tokens struct {
	client kubernetes.Interface
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func openTokens(client kubernetes.Interface, log *slog.Logger) *tokens {
	t := &tokens{client: client, log: log}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// close ends all renewing. A nil value is closed.
func (t *tokens) close() {
	if t == nil {
		return
	}
	t.cancel()
	t.wg.Wait()
}

// KeepToken writes a token to a file and renews it there until the control plane is
// closed, or its account or Pod is gone.
func (s *Stack) KeepToken(ctx context.Context, t Token, file string) error {
	expires, err := s.tokens.write(ctx, t, file)
	if err != nil {
		return err
	}
	s.tokens.wg.Go(func() { s.tokens.renew(t, file, expires) })
	return nil
}

// WriteToken writes a token to a file once.
func (s *Stack) WriteToken(ctx context.Context, t Token, file string) error {
	_, err := s.tokens.write(ctx, t, file)
	return err
}

func (t *tokens) write(ctx context.Context, want Token, file string) (time.Time, error) {
	life := want.Life
	if life == 0 {
		life = tokenLife
	}
	seconds := int64(life.Seconds())
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: want.Audiences, ExpirationSeconds: &seconds}}
	if want.Pod != "" {
		pod, err := t.client.CoreV1().Pods(want.Namespace).Get(ctx, want.Pod, metav1.GetOptions{})
		if err != nil {
			return time.Time{}, fmt.Errorf("token of %s/%s: %w", want.Namespace, want.ServiceAccount, err)
		}
		request.Spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	got, err := t.client.CoreV1().ServiceAccounts(want.Namespace).CreateToken(ctx, want.ServiceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("token of %s/%s: %w", want.Namespace, want.ServiceAccount, err)
	}
	return got.Status.ExpirationTimestamp.Time, replaceFile(file, []byte(got.Status.Token))
}

func (t *tokens) renew(want Token, file string, expires time.Time) {
	for {
		wait := max(time.Duration(float64(time.Until(expires))*renewAt), renewWait)
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(wait):
		}
		next, err := t.write(t.ctx, want, file)
		switch {
		case err == nil:
			expires = next
		case t.ctx.Err() != nil, gone(err):
			return
		default:
			t.log.Warn("a token could not be renewed", "account", want.ServiceAccount, "error", err)
		}
	}
}
