// Command podnet makes the network of an air-gapped kind node: it tells the
// container runtime the node's share of the pods' addresses, and routes the shares
// of the other nodes to them. The nodes are on one link.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// conflist is read by the container runtime; its name is the first in order of
// what a node usually has.
const conflist = "/etc/cni/net.d/10-podnet.conflist"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("podnet ends", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	node := os.Getenv("NODE_NAME")
	if node == "" {
		return errors.New("NODE_NAME says which node this is, and is not set")
	}
	client, err := dial(os.Getenv("CONTROL_PLANE_ENDPOINT"))
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, time.Minute)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	tell := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell}
	if _, err := nodes.Informer().AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		all, err := nodes.Lister().List(labels.Everything())
		if err == nil {
			err = settle(node, all)
		}
		if err != nil {
			log.Error("the network is not as the nodes say", "err", err)
		}
	}
}

// dial reaches the API server by the control plane's own name: its service address
// works only when kube-proxy does.
func dial(endpoint string) (kubernetes.Interface, error) {
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	if endpoint != "" {
		c.Host = "https://" + endpoint
	}
	return kubernetes.NewForConfig(c)
}

// settle brings this node's configuration and routes to what the nodes say.
func settle(name string, all []*corev1.Node) error {
	var errs []error
	want := map[string]string{} // the node's address, by pod addresses
	for _, n := range all {
		if n.Name == name {
			errs = append(errs, configure(conflist, n.Spec.PodCIDRs))
			continue
		}
		errs = append(errs, gateways(n, want))
	}
	return errors.Join(append(errs, route(want))...)
}

// gateways adds which address of a node its pods are behind.
func gateways(n *corev1.Node, want map[string]string) error {
	for _, cidr := range n.Spec.PodCIDRs {
		at, err := addressFor(cidr, n.Status.Addresses)
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		want[cidr] = at
	}
	return nil
}
