// Command fortio is the server of the fortio sample, made of fortio's own packages:
// the echo server, with the flags that samples set. Load is duomesh's own command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"fortio.org/fortio/fhttp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr, nil, leaveTime); err != nil {
		fmt.Fprintln(os.Stderr, "fortio:", err)
		os.Exit(1)
	}
}

// off are the flags of fortio's other servers: what is left out is named.
var off = []string{"grpc-port", "tcp-port", "udp-port", "redirect-port", "https-port", "P", "M"}

// leaveTime is how long it goes on serving once it is told to end: those who send
// connections here learn only meanwhile that it leaves.
const leaveTime = 5 * time.Second

// run serves until ctx ends, and for the time of leave after that. ready gets the
// address, once.
func run(ctx context.Context, args []string, log io.Writer, ready chan<- net.Addr, leave time.Duration) error {
	if len(args) == 0 || args[0] != "server" {
		return errors.New("want `server`, the only command of this build")
	}
	set := flag.NewFlagSet("fortio server", flag.ContinueOnError)
	set.SetOutput(log)
	port := set.String("http-port", "8080", "`[ADDRESS:]PORT` of the echo server")
	params := set.String("echo-server-default-params", "", "`QUERY` of requests without one, for example header=server:1 or status=503:10")
	set.String("loglevel", "", "accepted, without effect")
	for _, name := range off {
		set.String(name, "", "accepted, without effect: this build has the echo server alone")
	}
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", set.Arg(0))
	}
	if err := fhttp.DefaultEchoServerParams.SetV(*params); err != nil {
		return fmt.Errorf("-echo-server-default-params: %w", err)
	}
	address := *port
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "fortio: echo server at %s\n", l.Addr())
	if ready != nil {
		ready <- l.Addr()
	}
	return serve(ctx, l, leave)
}

// drainTime is how long requests that are under way may take at the end.
const drainTime = 10 * time.Second

func serve(ctx context.Context, l net.Listener, leave time.Duration) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", fhttp.EchoHandler)
	mux.HandleFunc("/debug", fhttp.DebugHandler)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: drainTime, Protocols: &http.Protocols{}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		<-time.After(leave)
		end, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		drained <- s.Shutdown(end)
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}
