package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
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

	mu   sync.Mutex
	kept map[string]*keptToken // by file
}

// keptToken is a token that is kept fresh.
type keptToken struct {
	want Token
	file string
	// again asks for another one now.
	again chan struct{}
	stop  context.CancelFunc
}

func openTokens(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*tokens, error) {
	t := &tokens{client: client, log: log, kept: map[string]*keptToken{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	made := cache.ResourceEventHandlerFuncs{AddFunc: t.seeMade}
	_, podErr := shared.Core().V1().Pods().Informer().AddEventHandler(made)
	_, err := shared.Core().V1().ServiceAccounts().Informer().AddEventHandler(made)
	if err = errors.Join(podErr, err); err != nil {
		t.cancel()
		return nil, fmt.Errorf("watch whose tokens are kept: %w", err)
	}
	return t, nil
}

// seeMade asks for new tokens of a Pod or a ServiceAccount that is made again: those that
// were bound to the one before are worth nothing.
func (t *tokens) seeMade(o any) {
	meta, ok := o.(metav1.Object)
	if !ok {
		return
	}
	_, isPod := o.(*corev1.Pod)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.kept {
		name := k.want.ServiceAccount
		if isPod {
			name = k.want.Pod
		}
		if k.want.Namespace == meta.GetNamespace() && name == meta.GetName() {
			select {
			case k.again <- struct{}{}:
			default: // it is asked already
			}
		}
	}
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
// closed or the file gets another one, also when its account or Pod is made again.
func (s *Stack) KeepToken(ctx context.Context, t Token, file string) error {
	return s.tokens.keep(ctx, t, file)
}

func (t *tokens) keep(ctx context.Context, want Token, file string) error {
	expires, err := t.write(ctx, want, file)
	if err != nil {
		return err
	}
	life, stop := context.WithCancel(t.ctx)
	k := &keptToken{want: want, file: file, again: make(chan struct{}, 1), stop: stop}
	t.mu.Lock()
	if before := t.kept[file]; before != nil {
		before.stop()
	}
	t.kept[file] = k
	t.mu.Unlock()
	t.wg.Go(func() { t.renew(life, k, expires) })
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

func (t *tokens) renew(life context.Context, k *keptToken, expires time.Time) {
	defer k.stop()
	for {
		wait := time.NewTimer(max(time.Duration(float64(time.Until(expires))*renewAt), renewWait))
		select {
		case <-life.Done():
			wait.Stop()
			return
		case <-k.again:
		case <-wait.C:
		}
		wait.Stop()
		next, err := t.write(life, k.want, k.file)
		switch {
		case err == nil:
			expires = next
		case life.Err() != nil:
			return
		case gone(err):
			expires = time.Now().Add(tokenLife) // whoever makes it again is seen
		default:
			t.log.Warn("a token could not be renewed", "account", k.want.ServiceAccount, "error", err)
		}
	}
}
