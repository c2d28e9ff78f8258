package netsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// Ended lists what should run beside the pods' own programs and does not any more: nodes
// whose agent has ended, by name, programs of the control plane, and waypoint pods whose
// process has ended.
func (c *Cluster) Ended() []string {
	var names []string
	for _, n := range c.nodes {
		if a, is := n.mesh.(*agentMesh); is && !a.runs() {
			names = append(names, n.name)
		}
	}
	if c.plane != nil {
		names = append(names, c.plane.stack.Ended()...)
	}
	for _, pod := range slices.Sorted(maps.Keys(c.waypoints)) {
		if c.waypoints[pod].hasEnded() {
			names = append(names, c.waypointPart(pod))
		}
	}
	return names
}

// waypointPart is the name by which Revive knows the waypoint of a pod: the pod's, but for
// one that has the name of something else that is started.
func (c *Cluster) waypointPart(pod string) string {
	if slices.Contains(c.agentsAndPlane(), pod) {
		return "waypoint/" + pod
	}
	return pod
}

// Revive starts what has ended again, by the names that Ended has, and returns when it
// answers; no names mean all.
func (c *Cluster) Revive(ctx context.Context, names ...string) error {
	ended := c.Ended()
	if len(names) == 0 {
		// The control plane first: what others wait for.
		names = slices.Clone(ended)
		slices.SortStableFunc(names, func(a, b string) int { return c.rank(a) - c.rank(b) })
	}
	for _, name := range names {
		if err := c.revive(ctx, name, ended); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) revive(ctx context.Context, name string, ended []string) error {
	switch {
	case !slices.Contains(c.parts(), name):
		return RefusedError{fmt.Errorf("the cluster has no agent, no waypoint and no program %q%s", name, c.known())}
	case !slices.Contains(ended, name):
		return RefusedError{fmt.Errorf("%s runs", name)}
	case c.rank(name) < len(planePrograms):
		return c.plane.stack.Start(ctx, name)
	}
	for pod, w := range c.waypoints {
		if c.waypointPart(pod) == name {
			return w.start(ctx)
		}
	}
	return c.LaunchAgent(ctx, name)
}

// known says which names there are.
func (c *Cluster) known() string {
	if names := c.parts(); len(names) > 0 {
		return ": there are " + strings.Join(names, ", ")
	}
	return ": there is none at all"
}

// planePrograms are those of a control plane, in the order in which they need each other.
var planePrograms = []string{"etcd", "kube-apiserver", "istiod"}

// rank orders what is started: programs of the control plane, then the others.
func (c *Cluster) rank(name string) int {
	if i := slices.Index(planePrograms, name); i >= 0 && c.plane != nil {
		return i
	}
	return len(planePrograms)
}

// parts are the names that Revive knows.
func (c *Cluster) parts() []string {
	names := c.agentsAndPlane()
	for _, pod := range slices.Sorted(maps.Keys(c.waypoints)) {
		names = append(names, c.waypointPart(pod))
	}
	return names
}

func (c *Cluster) agentsAndPlane() []string {
	var names []string
	for _, n := range c.nodes {
		if _, is := n.mesh.(*agentMesh); is {
			names = append(names, n.name)
		}
	}
	if c.plane != nil {
		names = append(names, planePrograms...)
	}
	return names
}

// EndedOf asks a living cluster of another process what has ended; runDir empty means
// DefaultRunDir.
func EndedOf(ctx context.Context, runDir, id string) ([]string, error) {
	res, err := askControl(ctx, runDir, id, request{Ended: true})
	return res.Ended, err
}

// ReviveOf has a living cluster of another process start again what has ended: see
// Cluster.Revive.
func ReviveOf(ctx context.Context, runDir, id string, names ...string) error {
	_, err := askControl(ctx, runDir, id, request{Revive: &revival{Names: names}})
	return err
}

// askControl asks a cluster's control socket for one thing.
func askControl(ctx context.Context, runDir, id string, req request) (response, error) {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	var res response
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(runDir, id, controlSocket))
	if err != nil {
		return res, fmt.Errorf("reach cluster %s: %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return res, fmt.Errorf("ask cluster %s: %w", id, err)
	}
	if err := json.NewDecoder(conn).Decode(&res); err != nil {
		return res, errors.Join(fmt.Errorf("answer of cluster %s: %w", id, err), ctx.Err())
	}
	if res.Error == "" {
		return res, nil
	}
	err = fmt.Errorf("cluster %s: %s", id, res.Error)
	if res.Refused {
		return res, RefusedError{err}
	}
	return res, err
}
