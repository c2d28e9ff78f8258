package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent"
	"github.com/duomesh/duomesh/dataplane/cni"
	"github.com/duomesh/duomesh/dataplane/cni/install"
	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/kube"
	"github.com/duomesh/duomesh/dataplane/source/xds"
)

// kubeFlags are what an agent on a Kubernetes node is told.
type kubeFlags struct {
	on         bool
	config     string
	namespace  string
	daemonset  string
	mountBPF   bool
	installCNI bool
	removeCNI  bool
	netDir     string
	binDir     string
	program    string
	absent     string
	pass       []string
}

func (k *kubeFlags) define(set *pflag.FlagSet, env func(string) string) {
	k.namespace = env("POD_NAMESPACE")
	set.BoolVar(&k.on, "kubernetes", false, "enrol the node's pods by their labels, as the API server names them")
	set.StringVar(&k.config, "kubeconfig", "", "`FILE` of how to reach the API server; in a pod it is known")
	set.StringVar(&k.daemonset, "daemonset", "", "`NAME` of the agent's own DaemonSet: when it or its namespace is deleted the agent takes everything with it")
	set.BoolVar(&k.mountBPF, "mount-bpffs", false, "mount a BPF file system at --bpffs where there is none")
	set.BoolVar(&k.installCNI, "install-cni", false, "put the CNI plugin into the node's chain and keep it there")
	set.BoolVar(&k.removeCNI, "uninstall-cni", false, "take the CNI plugin out of the node's chain, and stop")
	set.StringVar(&k.netDir, "cni-net-dir", "/etc/cni/net.d", "`DIR` of the container runtime's CNI configuration")
	set.StringVar(&k.binDir, "cni-bin-dir", "/opt/cni/bin", "`DIR` of the container runtime's CNI plugins")
	set.StringVar(&k.program, "cni-program", "", "`FILE` that is the plugin; beside this program when not given")
	set.StringVar(&k.absent, "cni-agent-absent", cni.AbsentFail, "what the plugin does with a pod when no agent answers: `fail|pass`")
	set.StringSliceVar(&k.pass, "cni-pass-namespace", nil, "`NAMESPACE` whose pods start without an agent all the same; may be repeated")
}

// node is the part of the agent that only a Kubernetes node has.
type node struct {
	controller *kube.Controller
	installer  *install.Installer
	chain      *chain // nil without an installer
	log        *slog.Logger
}

func (k kubeFlags) installer(socket string, log *slog.Logger) (*install.Installer, error) {
	if k.program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the CNI plugin: %w", err)
		}
		k.program = filepath.Join(filepath.Dir(self), cni.Type)
	}
	i, err := install.New(install.Config{
		NetDir: k.netDir, BinDir: k.binDir, Program: k.program, Log: log,
		Plugin: cni.Conf{Socket: socket, AgentAbsent: k.absent, PassNamespaces: k.pass},
	})
	if err != nil {
		return nil, usageError{err}
	}
	return i, nil
}

func (k kubeFlags) clients() (kubernetes.Interface, metadata.Interface, error) {
	var c *rest.Config
	var err error
	if k.config == "" {
		c, err = rest.InClusterConfig()
	} else {
		c, err = clientcmd.BuildConfigFromFlags("", k.config)
	}
	if err != nil {
		return nil, nil, usagef("--kubernetes: %w", err)
	}
	c.UserAgent = "duomesh-agent"
	// Pods of a node are annotated at once, when it is installed and when it goes.
	c.QPS, c.Burst = 50, 100
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, nil, fmt.Errorf("client of the API server: %w", err)
	}
	meta, err := metadata.NewForConfig(c)
	if err != nil {
		return nil, nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, meta, nil
}

// handoffs has the source hear what Gateways say of how they are handed connections.
func (k kubeFlags) handoffs(ctx context.Context, c *xds.Config, log *slog.Logger) error {
	if !k.on {
		return nil
	}
	_, meta, err := k.clients()
	if err != nil {
		return err
	}
	c.Handoffs, err = kube.WatchHandoffs(ctx, meta, log)
	return err
}

// open makes the parts that were asked for; nothing runs before run.
func (k kubeFlags) open(f flags, place intent.Place, cgroup string, log *slog.Logger) (node, error) {
	n := node{log: log}
	var err error
	if k.installCNI {
		if !k.on {
			return n, usagef("--install-cni: the plugin asks for labels, which --kubernetes makes known")
		}
		if n.installer, err = k.installer(f.enrol, log); err != nil {
			return n, err
		}
		n.chain = newChain(k.netDir)
	}
	if !k.on {
		return n, nil
	}
	klog.SetSlogLogger(log) // what client-go has to say
	client, meta, err := k.clients()
	if err != nil {
		return n, err
	}
	n.controller, err = kube.New(kube.Config{
		Client: client, Metadata: meta, Node: place.Node, Namespace: k.namespace, DaemonSet: k.daemonset, Chained: k.installCNI,
		Places: kube.Places{Cgroup: cgroup, Proc: "/proc"}, HandOff: handoff.PortOriginalDst, Socket: f.enrol, Log: log,
	})
	if err != nil {
		return n, usageError{err}
	}
	return n, nil
}

// admit lets the agent ask, and show what is known here.
func (n node) admit(c *agent.Config) {
	c.Collectors = append(c.Collectors, n.metrics()...)
	if n.chain != nil {
		c.Chain = n.chain.Problem
	}
	if n.controller != nil {
		c.Admission = n.controller
	}
}

// run returns when ctx ends.
func (n node) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	part := func(what string, run func() error) {
		wg.Go(func() {
			if err := run(); err != nil {
				n.log.Error(what, "err", err)
			}
		})
	}
	if n.controller != nil {
		part("enrolment by labels has ended", func() error { return n.controller.Run(ctx) })
	}
	if n.installer != nil {
		part("the CNI plugin is not looked after", func() error { return n.installer.Run(ctx, n.chain.looked) })
	}
}

// removed reports whether the agent is being uninstalled.
func (n node) removed() bool { return n.controller != nil && n.controller.Removed() }

// unserved tells the pods of a node whose kernel is not supported that none of them is
// redirected: nothing else on the node would.
func (n node) unserved(ctx context.Context, err error, pinned bool) {
	var unsupported dataplane.KernelError
	if n.controller == nil || !errors.As(err, &unsupported) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, unmarkTime)
	defer cancel()
	if err := n.controller.Unserved(ctx, unsupported, pinned); err != nil {
		n.log.Warn("pods were not told that they are not redirected", "err", err)
	}
}

// unmarkTime bounds how long the agent that is uninstalled tells pods: its own has 30
// seconds to end.
const unmarkTime = 10 * time.Second

// leave takes the plugin out of the node, without which no pod starts; then the
// annotations off its pods, as long as the API server lets it.
func (n node) leave(ctx context.Context) (err error) {
	if n.installer != nil {
		err = n.installer.Uninstall()
	}
	if n.controller != nil {
		ctx, cancel := context.WithTimeout(ctx, unmarkTime)
		defer cancel()
		if err := n.controller.Unmark(ctx); err != nil {
			n.log.Warn("pods say yet that they are redirected", "err", err)
		}
	}
	return err
}

// localityTime bounds how long the start waits for the API server to say where the
// node stands. The engine that an earlier agent left works all the while.
const localityTime = 30 * time.Second

// locate sets the locality of a node that was not told its own.
func (k kubeFlags) locate(ctx context.Context, place *intent.Place, log *slog.Logger) error {
	if !k.on || place.Locality != (intent.Locality{}) {
		return nil
	}
	client, _, err := k.clients()
	if err != nil {
		return err
	}
	l := &place.Locality
	ask := func() (struct{}, error) {
		var err error
		l.Region, l.Zone, l.Subzone, err = kube.Locality(ctx, client, place.Node)
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
			err = backoff.Permanent(err) // another try hears the same
		}
		return struct{}{}, err
	}
	if _, err := backoff.Retry(ctx, ask, backoff.WithMaxElapsedTime(localityTime)); err != nil {
		log.Warn("the node's locality is not known, no endpoint is near", "err", err)
	}
	return nil
}

// mount makes the BPF file system that pins need, once.
func (k kubeFlags) mount(dir string) error {
	if !k.mountBPF || dir == "" {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("--bpffs %s: %w", dir, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", dir, err)
	}
	return nil
}

// uninstall is --uninstall-cni.
func (k kubeFlags) uninstall(socket string, log *slog.Logger) error {
	i, err := k.installer(socket, log)
	if err != nil {
		return err
	}
	return i.Uninstall()
}
