package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	clientapi "k8s.io/client-go/tools/clientcmd/api"
)

// Stack is a running control plane. Its methods may be called at the same time.
type Stack struct {
	cfg   Config
	ca    *authority
	admin pair
	clients

	etcd, apiserver, istiod *component

	kubelet *kubelet
	tokens  *tokens

	mu    sync.Mutex
	steps []Step

	closeOnce sync.Once
}

// Open starts the control plane and returns when istiod serves. The caller closes
// it; on error nothing of it runs, and the logs are left.
func Open(ctx context.Context, cfg Config) (_ *Stack, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Stack{cfg: cfg}
	if s.ca, s.admin, err = cfg.writeKeys(); err != nil {
		return nil, err
	}
	if s.clients, err = cfg.clients(s.ca, s.admin); err != nil {
		return nil, err
	}
	s.etcd = s.component("etcd", func(ctx context.Context) error { return cfg.answers(ctx, url("http", etcdPort)+"/health") })
	s.apiserver = s.component("kube-apiserver", s.apiserverReady)
	s.istiod = s.component("istiod", func(ctx context.Context) error { return cfg.answers(ctx, url("http", readyPort)+"/ready") })
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stack) component(name string, ready func(context.Context) error) *component {
	return &component{name: name, start: s.cfg.Start, logs: s.cfg.Logs, ready: ready, said: s.cfg.Log}
}

func (s *Stack) open(ctx context.Context) error {
	var manifests []*unstructured.Unstructured
	g, side := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.step("manifests", func() (err error) {
			manifests, err = s.cfg.Binaries.manifests(side)
			return err
		})
	})
	g.Go(func() error {
		err := s.step("etcd", func() error { return s.etcd.run(side, s.cfg.etcdCommand()) })
		if err != nil {
			return err
		}
		return s.step("kube-apiserver", func() error { return s.apiserver.run(side, s.cfg.apiserverCommand()) })
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.step("objects", func() error { return s.furnish(ctx, manifests) }); err != nil {
		return err
	}
	return s.step("istiod", func() error { return s.StartIstiod(ctx) })
}

// furnish applies what istiod and the players need, and starts the players.
func (s *Stack) furnish(ctx context.Context, manifests []*unstructured.Unstructured) error {
	var definitions, others []*unstructured.Unstructured
	for _, o := range manifests {
		if o.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, o)
		} else {
			others = append(others, o)
		}
	}
	if err := s.Apply(ctx, namespaceObject(RootNamespace)); err != nil {
		return err
	}
	g, side := errgroup.WithContext(ctx)
	g.Go(func() error { return s.define(side, definitions) })
	g.Go(func() error { return s.create(side, append(others, accountObject(RootNamespace, NodeAccount))...) })
	if err := g.Wait(); err != nil {
		return err
	}
	var err error
	if s.kubelet, err = openKubelet(ctx, s.clients, s.cfg.Log); err != nil {
		return err
	}
	if s.tokens, err = openTokens(s.client, s.kubelet.shared, s.cfg.Log); err != nil {
		return err
	}
	return s.introduceIstiod(ctx)
}

// introduceIstiod makes the account that istiod runs as, and the Node and Pod by
// which its Service finds it.
func (s *Stack) introduceIstiod(ctx context.Context) error {
	err := s.AddNode(ctx, Node{Name: HostName, Addresses: s.cfg.Addresses})
	if err != nil {
		return err
	}
	labels := map[string]string{"app": "istiod", "istio": "pilot", "istio.io/rev": "default"}
	err = s.AddPod(ctx, Pod{
		Namespace: RootNamespace, Name: istiodPod, Node: HostName, ServiceAccount: "istiod", HostNetwork: true,
		Addresses: s.cfg.Addresses, Labels: labels,
	})
	if err != nil {
		return err
	}
	token := filepath.Join(s.cfg.Dir, istiodToken)
	err = s.KeepToken(ctx, Token{Namespace: RootNamespace, ServiceAccount: "istiod", Pod: istiodPod}, token)
	if err != nil {
		return err
	}
	config, err := kubeconfig(url("https", APIServerPort), s.ca.pem, &clientapi.AuthInfo{TokenFile: token})
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.cfg.Dir, istiodKubeconfig), config)
}

// step does one part of the start and notes how long it took.
func (s *Stack) step(name string, do func() error) error {
	start := time.Now()
	err := do()
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(start)
	s.steps = append(s.steps, Step{Name: name, Took: took})
	if err != nil {
		return fmt.Errorf("control plane: %s: %w", name, err)
	}
	s.cfg.Log.Info("control plane: a part is ready", "part", name, "took", took.Round(time.Millisecond))
	return nil
}

// programs are those of the control plane, in the order in which they need each other.
func (s *Stack) programs() []*component { return []*component{s.etcd, s.apiserver, s.istiod} }

// Ended lists the programs that do not run any more, by name.
func (s *Stack) Ended() []string {
	var names []string
	for _, c := range s.programs() {
		if !c.running() {
			names = append(names, c.name)
		}
	}
	return names
}

// Start starts a program that has ended and returns when it serves.
func (s *Stack) Start(ctx context.Context, program string) error {
	switch program {
	case s.etcd.name:
		return s.etcd.run(ctx, s.cfg.etcdCommand())
	case s.apiserver.name:
		return s.apiserver.run(ctx, s.cfg.apiserverCommand())
	case s.istiod.name:
		return s.StartIstiod(ctx)
	}
	return fmt.Errorf("the control plane has no program %q", program)
}

// Steps are the parts of the start, in the order in which they ended.
func (s *Stack) Steps() []Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Step(nil), s.steps...)
}

// Client is the administrator's client of the API server.
func (s *Stack) Client() kubernetes.Interface { return s.client }

// stopTime bounds how long the programs may take to end.
const stopTime = 15 * time.Second

// Close ends the players, then istiod, the API server and etcd. It may be repeated.
func (s *Stack) Close() {
	s.closeOnce.Do(func() {
		s.kubelet.close()
		s.tokens.close()
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		for _, c := range []*component{s.istiod, s.apiserver, s.etcd} {
			c.stop(ctx)
		}
	})
}

// replaceFile writes a file that readers see whole or not at all.
func replaceFile(path string, data []byte) error {
	err := os.WriteFile(path+".new", data, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), err))
	}
	return nil
}
