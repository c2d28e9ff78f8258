package kube

import (
	"errors"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

// Config is what a Controller is given.
type Config struct {
	// Client and Metadata speak to the API server with the rights of deploy/'s
	// ClusterRole.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Node is the name of the node, Namespace the agent's own.
	Node, Namespace string
	// DaemonSet is the agent's own, in Namespace; "" when it has none.
	DaemonSet string
	// Chained is set when the CNI plugin is to be in the node's chain, so that pods which
	// are managed come by it, before their first process runs.
	Chained bool
	// Places finds pods on the node.
	Places Places
	// HandOff is the port at which connections are handed to the node's waypoints; 0
	// leaves waypoints to others.
	HandOff uint16
	// Socket is the agent's enrolment socket.
	Socket string
	// Compare is how often the agent is asked whether it has still what it was
	// given; 0 means every 30 seconds.
	Compare time.Duration
	// Log gets what is worth a line; nil discards.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Client == nil || c.Metadata == nil:
		return c, errors.New("no client of the API server was given")
	case c.Node == "":
		return c, errors.New("the name of the node is needed")
	case c.Places.Cgroup == "" || c.Places.Proc == "" || c.Socket == "":
		return c, errors.New("the node's cgroup, its /proc and the enrolment socket are needed")
	}
	if c.Compare == 0 {
		c.Compare = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
