package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/dataplane/source/file"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

// findEnvoy is the Envoy of ENVOY_BIN, else the one that make tools has put into the
// cache; "" where there is none.
func findEnvoy() string { return envoy.Find(os.Getenv("ENVOY_BIN")) }

// waypointFile is what the waypoint of the l7 scenarios reads.
func waypointFile(c *netsim.Cluster) string {
	return filepath.Join(c.Dir(), "b", "waypoint", "intent.yaml")
}

// editRoutes changes the waypoint's own file behind the declaration, and returns when its
// Envoy has that.
func editRoutes(edit func(r *intent.Route)) func(context.Context, *netsim.Cluster) error {
	return func(ctx context.Context, c *netsim.Cluster) error {
		path := waypointFile(c)
		snapshot, err := file.Load(path)
		if err != nil {
			return err
		}
		for _, r := range snapshot.Routes {
			edit(r)
		}
		data, err := file.Marshal(snapshot)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".broken", data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".broken", path); err != nil {
			return err
		}
		client := api.NewClient("unix:" + filepath.Join(filepath.Dir(path), "admin.sock"))
		defer client.Close()
		s, err := client.Status(ctx, file.Version(data))
		if err == nil && s.Source.Problem != "" {
			err = errors.New(s.Source.Problem)
		}
		return err
	}
}

// aroundTheWaypoint makes connections from a client to a backend's own address.
func aroundTheWaypoint(c *netsim.Cluster) error {
	to, err := c.Resolve(scenario.Target{Pod: "v1", Port: 8080, Family: scenario.IPv4})
	if err != nil {
		return err
	}
	_, err = c.Exec(context.Background(), "client", traffic.Load{
		To: to, Connections: 5, Workers: 1, HTTP: &traffic.HTTP{Requests: 1},
	}, nil)
	return err
}

// A mesh with a waypoint, broken from outside.
var _ = Describe("a waypoint broken from outside", Label("netsim"), func() {
	DescribeTable("is refused", func(ctx SpecContext, name string, b brokenWorld, check string) {
		expectRefused(ctx, name, b, check)
	},
		Entry("weights edited behind the declaration", "l7/weight/90-10", brokenWorld{sabotage: editRoutes(func(r *intent.Route) {
			if r.Match.Name == "" {
				r.Backends[0].Weight, r.Backends[1].Weight = 50, 50
			}
		})}, "requests: share of v1", SpecTimeout(5*time.Minute)),
		Entry("85/15 instead of 90/10", "l7/weight/90-10", brokenWorld{sabotage: editRoutes(func(r *intent.Route) {
			if r.Match.Name == "" {
				r.Backends[0].Weight, r.Backends[1].Weight = 85, 15
			}
		})}, "requests: share of v1", SpecTimeout(5*time.Minute)),
		Entry("a header that leads elsewhere", "l7/header/200", brokenWorld{sabotage: editRoutes(func(r *intent.Route) {
			if r.Match.Name != "" {
				r.Backends[0].Service = strings.ReplaceAll(r.Backends[0].Service, "v2", "v1")
			}
		})}, "the application saw what is declared", SpecTimeout(5*time.Minute)),
		Entry("weights that do not change", "l7/weight-change/under-load", brokenWorld{deaf: true},
			"after the change: share of v1", SpecTimeout(5*time.Minute)),
		Entry("an engine that does not redirect", "l7/header/200", brokenWorld{sabotage: detach("mesh_connect4")},
			"the application saw what is declared", SpecTimeout(5*time.Minute)),
		Entry("an engine that writes no header", "l7/proxy-v2/90-10", brokenWorld{sabotage: detach("mesh_header")},
			"the application saw what is declared", SpecTimeout(5*time.Minute)),
		Entry("weights edited behind a PROXY header", "l7/proxy-v2/90-10", brokenWorld{sabotage: editRoutes(func(r *intent.Route) {
			if r.Match.Name == "" {
				r.Backends[0].Weight, r.Backends[1].Weight = 85, 15
			}
		})}, "requests: share of v1", SpecTimeout(5*time.Minute)),
		Entry("no replica, and no engine either", "l7/no-replica/500", brokenWorld{sabotage: detach("mesh_connect4")},
			"the first packet went as declared", SpecTimeout(5*time.Minute)),
		Entry("a replica that nobody is told of", "l7/two-replicas/90-10", brokenWorld{told: func(o scenario.Objects) scenario.Objects {
			o.Waypoints = []scenario.Waypoint{{Name: "pair", Pods: []string{"waypoint"}}}
			return o
		}}, "some to replica waypoint2", SpecTimeout(5*time.Minute)),
		Entry("a backend dialled around the waypoint", "l7/header/200", brokenWorld{watched: aroundTheWaypoint},
			"every connection that servers saw was made by a client", SpecTimeout(5*time.Minute)),
		Entry("a node that sends what is for the waypoint past it", "l7/header/200", brokenWorld{
			sabotage: rules("b", func(c *netsim.Cluster) [][]string {
				return [][]string{{"nat", "PREROUTING", "-d", address(c, "waypoint"), "-p", "tcp", "--dport", "15029",
					"-j", "DNAT", "--to-destination", address(c, "v2") + ":8080"}}
			}),
		}, "the server sees the waypoint", SpecTimeout(5*time.Minute)),
		Entry("a server that counts one request less", "l7/header/200", brokenWorld{server: func(served map[string][]traffic.Conn) {
			for _, c := range served["v2"] {
				for id := range c.Served {
					c.Served[id]--
					return
				}
			}
		}}, "client and server agree", SpecTimeout(5*time.Minute)),
		Entry("a server that loses a connection's report", "l7/header/200", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v2"] = nil
		}}, "client and server agree", SpecTimeout(5*time.Minute)),
	)
})
