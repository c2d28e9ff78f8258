package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/l4"
	"github.com/duomesh/duomesh/internal/kernel"
)

// olderUses say what becomes of what is older than the engine: connections of a pod that
// is enrolled, and the listeners of a waypoint.
func olderUses(features []kernel.Trial, listener error) []kernel.Use {
	count := kernel.Use{For: "count connections older than an enrolment", By: "sock_diag"}
	if why := lack(features, kernel.SockDiag); why != "" {
		count.By, count.Instead = "", []string{why}
		count.Effect = "nobody knows how many there are: the agent says so"
	}
	end := kernel.Use{For: "end connections older than an enrolment", By: "SOCK_DESTROY"}
	if why := lack(features, kernel.EndSockets); why != "" {
		end.By, end.Instead = "", []string{why}
		end.Effect = "duomesh-agent refuses --reset-existing"
	}
	prepare := kernel.Use{For: "serve a waypoint that listens already", By: "an iterator and bpf_setsockopt"}
	if listener != nil {
		prepare.By, prepare.Instead = "", []string{kernel.Innermost(listener)}
		prepare.Effect = "it is refused, by name: start the waypoint after the agent, or anew"
	}
	return []kernel.Use{count, end, prepare}
}

// tryListener serves a waypoint that listens before it is served, for a moment.
func tryListener(e *l4.Engine, cgroup *os.File) (err error) {
	ns, err := kernel.NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	var l net.Listener
	if err := kernel.InNetns(ns, func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, err = c.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", handoff.PortOriginalDst))
		return err
	}); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	err = e.ServeWaypoint(cgroup, ns, handoff.PortOriginalDst)
	return errors.Join(err, e.StopWaypoint(ns))
}
