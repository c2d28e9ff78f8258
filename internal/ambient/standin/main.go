package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
)

// IsChild says whether this process was started as a stand-in.
func IsChild() bool { return len(os.Args) > 0 && filepath.Base(os.Args[0]) == Name }

// Main runs the stand-in with its arguments and environment, and returns the exit
// code.
func Main(args, environ []string) int {
	if len(args) > 1 && args[1] == "version" {
		fmt.Fprintln(os.Stdout, version)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, environ, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}

// node is one stand-in.
type node struct {
	cfg      config
	certs    *certificates
	counters *counters
	home     *os.File // its own namespace
	ready    chan struct{}

	mu   sync.Mutex
	log  io.Writer
	fail chan error
}

// gcPercent lets a heap of a few megabytes grow before it is collected: a proxy
// in another language collects nothing.
const gcPercent = 800

func run(ctx context.Context, environ []string, log io.Writer) (err error) {
	cfg, err := parseConfig(environ)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(cfg.workers)
	debug.SetGCPercent(gcPercent)
	n := &node{cfg: cfg, counters: newCounters(), ready: make(chan struct{}), log: log, fail: make(chan error, 1)}
	if n.certs, err = openCertificates(cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.certs.close()) }()
	if n.home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer n.home.Close()
	if err := n.serveStatus(ctx); err != nil {
		return err
	}
	go func() { n.fail <- n.takePods(ctx) }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.fail:
		return err
	}
}

// say writes a line, as the access log and for what goes wrong.
func (n *node) say(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.log, format+"\n", args...)
}

// serveStatus answers for readiness and counters in the node's own namespace.
func (n *node) serveStatus(ctx context.Context) error {
	status := http.NewServeMux()
	status.HandleFunc("/healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-n.ready:
			fmt.Fprintln(w, "ready")
		default:
			http.Error(w, "the pods are not there yet", http.StatusServiceUnavailable)
		}
	})
	status.Handle("/metrics", n.counters.handler())
	for _, address := range []string{"127.0.0.1:15020", "127.0.0.1:15021"} {
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return fmt.Errorf("listen for status: %w", err)
		}
		server := &http.Server{Handler: status}
		context.AfterFunc(ctx, func() { server.Close() })
		go server.Serve(l)
	}
	return nil
}
