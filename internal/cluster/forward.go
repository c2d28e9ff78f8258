package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Forward opens a port of this machine's loopback that leads to a port of a pod, as
// kubectl port-forward does, and returns its address. It ends with close.
func (c *Client) Forward(ctx context.Context, namespace, pod string, port uint16) (address string, stop func(), err error) {
	fail := func(err error) (string, func(), error) {
		return "", nil, fmt.Errorf("reach port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return fail(err)
	}
	url := c.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	ended, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ended, ready, io.Discard, io.Discard)
	if err != nil {
		return fail(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return fail(errors.Join(errors.New("it was refused"), err))
	case <-ctx.Done():
		close(ended)
		return fail(context.Cause(ctx))
	}
	ports, err := f.GetPorts()
	if err != nil {
		close(ended)
		return fail(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), func() { close(ended); <-failed }, nil
}
