package l4

import (
	"errors"
	"fmt"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Older returns how many connections a pod has made that stand, or are being made: those
// of TCP, and connected UDP sockets, but none over the loopback. Before Enrol it says how
// many will not be redirected, but stay as they are. Only p.Netns is needed.
func Older(p Pod) (int, error) {
	all, err := connectionsOf(p)
	if err != nil {
		return 0, fmt.Errorf("older connections of pod %s: %w", p.Name, err)
	}
	return len(all), nil
}

// EndOlder ends the connections that a pod has made, and returns how many. Right after
// Enrol those are the older ones, and what has been connected since. The application
// gets ECONNABORTED.
func EndOlder(p Pod) (int, error) {
	all, err := connectionsOf(p)
	if err != nil {
		return 0, fmt.Errorf("end older connections of pod %s: %w", p.Name, err)
	}
	n, err := kernel.EndConnections(p.Netns, all)
	if err != nil {
		return n, fmt.Errorf("end older connections of pod %s: %w", p.Name, err)
	}
	return n, nil
}

func connectionsOf(p Pod) ([]kernel.Connection, error) {
	if p.Netns == nil {
		return nil, errors.New("its network namespace is needed")
	}
	return kernel.Connections(p.Netns)
}
