package istiod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// wayfarers is the cluster of the waypoints' specs: the waypoint on the other node, and
// pods for more of it.
func wayfarers() scenario.Topology {
	server := func(name string) scenario.Pod { return scenario.Pod{Name: name, Serve: []uint16{8080}} }
	way := func(name string) scenario.Pod { return scenario.Pod{Name: name, Waypoint: true} }
	return scenario.Topology{Mesh: scenario.Duomesh, Agents: true, Nodes: []scenario.Node{
		{Name: "a", Pods: []scenario.Pod{
			{Name: "client", Managed: true}, {Name: "client2", Managed: true}, server("v1"), way("waypoint2"),
		}},
		{Name: "b", Pods: []scenario.Pod{server("v2"), server("v3"), way("waypoint"), way("waypoint3")}},
	}}
}

// gateway is a waypoint, as a person declares one.
func gateway(name, serves string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, labels: {istio.io/waypoint-for: %s}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
`, name, serves)
}

// passing is a Service of v1 and v2 that goes through the waypoint of that name.
func passing(name, address, ports string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: %s, selector: {tier: web}, ports: [%s]}
---
`, name, address, ports)
}

// echoVIP is the address of the service of most specs, and what is behind it.
const (
	echoVIP   = "10.96.230.1"
	echoURL   = "http://" + echoVIP
	echoHost  = "echo.default.svc.cluster.local"
	echoPorts = `{name: http, port: 80, targetPort: 7080}, {name: grpc, port: 81, targetPort: 7081},` +
		`{name: tcp-banner, port: 9000, targetPort: 7002}, {name: tcp-bulk, port: 9001, targetPort: 7001}`
	versions = `
apiVersion: v1
kind: Service
metadata: {name: echo-v1}
spec: {clusterIP: 10.96.230.2, selector: {app: v1}, ports: [{name: http, port: 80, targetPort: 7080}, {name: tcp, port: 9000, targetPort: 7002}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo-v2}
spec: {clusterIP: 10.96.230.3, selector: {app: v2}, ports: [{name: http, port: 80, targetPort: 7080}, {name: tcp, port: 9000, targetPort: 7002}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo.default.svc.cluster.local
  subsets: [{name: v1, labels: {app: v1}}, {name: v2, labels: {app: v2}}]
---
`
)

// through opens the cluster with a web server in v1 and v2 behind service echo, which
// goes through a waypoint of some replicas. config is added to that of the cluster.
func through(ctx SpecContext, config netsim.Config, replicas ...string) *netsim.Cluster {
	GinkgoHelper()
	return throughBy(ctx, config, scenario.HandOffPort, replicas...)
}

// throughBy is the same where connections are handed to another port.
func throughBy(ctx SpecContext, config netsim.Config, port uint16, replicas ...string) *netsim.Cluster {
	GinkgoHelper()
	if findEnvoy() == "" {
		Skip("NOT RUN: no Envoy (make tools)")
	}
	// No zones: waypoints of Istio's prefer callers of their own.
	c := must(openWith(ctx, config, wayfarers()))
	DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
	for _, pod := range []string{"v1", "v2", "v3"} {
		child(ctx, c, pod, web.Task{Do: "serve", Name: pod})
	}
	Expect(label(ctx, "tier", "web", "v1", "v2")).To(Succeed())
	forgetLater("waypoint")
	apply(ctx, c, gateway("waypoint", "service")+passing("echo", echoVIP, echoPorts)+versions)
	// The replicas leave before their Gateway: its Service, which istiod may make once more
	// then, must not find them, or the next one of the name has no address.
	DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
	join(ctx, c, "waypoint", replicas...)
	Expect(awaitRoutes(ctx, c, ledBy(port, replicas...))).To(Succeed())
	// istiod tells nodes and waypoints one after the other, in an order of its own.
	for _, pod := range replicas {
		Eventually(ctx, func() []string { return must(c.WaypointStatus(ctx, pod)).Services }).WithTimeout(patience).
			Should(ContainElement(echoHost), pod)
	}
	return c
}

// forgetLater lets what istiod makes for a Gateway go after the Gateway: it is called
// before that is applied.
func forgetLater(name string) {
	GinkgoHelper()
	DeferCleanup(func(ctx SpecContext) {
		Expect(plane.Stack().ForgetGateway(ctx, "default", name)).To(Succeed())
	})
}

// join makes pods the replicas of a Gateway.
func join(ctx SpecContext, c *netsim.Cluster, name string, pods ...string) {
	GinkgoHelper()
	for _, pod := range pods {
		Expect(c.JoinGateway(ctx, pod, name)).To(Succeed())
	}
}

// ledTo is where connections to echo lead: to these replicas evenly.
func ledTo(pods ...string) map[string]map[string]float64 { return ledBy(scenario.HandOffPort, pods...) }

// ledBy is the same to another port.
func ledBy(port uint16, pods ...string) map[string]map[string]float64 {
	shares := map[string]float64{}
	for _, pod := range pods {
		shares[fmt.Sprintf("%s:%d", pod, port)] = 1 / float64(len(pods))
	}
	return map[string]map[string]float64{echoVIP + ":80": shares}
}

func command(t web.Task, out, errs *os.File) netsim.Command {
	GinkgoHelper()
	data := must(json.Marshal(t))
	command := netsim.Command{Argv: []string{"web"}, Path: "/proc/self/exe", Env: []string{web.Env + "=" + string(data)}}
	if out != nil {
		command.Stdout, command.Stderr = out, errs
	}
	return command
}

// child starts a server that ends with the cluster.
func child(ctx context.Context, c *netsim.Cluster, pod string, t web.Task) {
	GinkgoHelper()
	must(c.Start(context.WithoutCancel(ctx), pod, command(t, nil, nil)))
}

// send lets a client in a pod do a task.
func send(ctx context.Context, c *netsim.Cluster, pod string, t web.Task) web.Result {
	GinkgoHelper()
	var out bytes.Buffer
	cmd := command(t, nil, nil)
	cmd.Stdout = &out
	p := must(c.Start(ctx, pod, cmd))
	Expect(p.Wait()).To(Succeed())
	var r web.Result
	Expect(json.Unmarshal(out.Bytes(), &r)).To(Succeed())
	return r
}

// get makes one request from the client.
func get(ctx context.Context, c *netsim.Cluster, url string) web.Result {
	GinkgoHelper()
	return send(ctx, c, "client", web.Task{Do: "http", URL: url})
}

func pairs(header []string) map[string]string {
	all := map[string]string{}
	for i := 0; i+1 < len(header); i += 2 {
		all[header[i]] = header[i+1]
	}
	return all
}

// begin starts a client that goes on until end is called, and returns when it does.
func begin(ctx SpecContext, c *netsim.Cluster, pod string, t web.Task) (end func() web.Result) {
	GinkgoHelper()
	in, told, err := os.Pipe()
	Expect(err).NotTo(HaveOccurred())
	var out bytes.Buffer
	started := &firstWord{said: make(chan struct{})}
	cmd := command(t, nil, nil)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, started
	p := must(c.Start(context.WithoutCancel(ctx), pod, cmd))
	in.Close()
	var once sync.Once
	stop := func() { once.Do(func() { told.Close() }) }
	DeferCleanup(stop)
	select {
	case <-started.said:
	case <-p.Done():
		Fail("the client has ended: " + out.String() + started.text.String())
	case <-ctx.Done():
		Fail("the client does not begin")
	}
	return func() web.Result {
		GinkgoHelper()
		stop()
		Expect(p.Wait()).To(Succeed())
		var r web.Result
		Expect(json.Unmarshal(out.Bytes(), &r)).To(Succeed())
		return r
	}
}

// firstWord tells when something was written.
type firstWord struct {
	said chan struct{}
	once sync.Once
	text strings.Builder
}

// Write implements io.Writer.
func (f *firstWord) Write(b []byte) (int, error) {
	f.once.Do(func() { close(f.said) })
	return f.text.Write(b)
}

// rule applies a rule for the time of the spec, and returns it.
func rule(ctx SpecContext, c *netsim.Cluster, kind, name, spec string) {
	GinkgoHelper()
	group := map[string]string{
		"VirtualService": "networking.istio.io/v1", "DestinationRule": "networking.istio.io/v1",
		"AuthorizationPolicy": "security.istio.io/v1", "EnvoyFilter": "networking.istio.io/v1alpha3",
		"HTTPRoute": "gateway.networking.k8s.io/v1",
	}[kind]
	apply(ctx, c, fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec:\n%s\n", group, kind, name, indented(spec)))
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// most of what a spec waits for istiod and Envoy for.
const patience = 20 * time.Second
