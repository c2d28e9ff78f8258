package istiod

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// ask is a load of the client's. A share is judged by 6000 connections, one server
// alone by 500.
func ask(address string, split map[string]float64, target uint16) scenario.Load {
	to := netip.MustParseAddrPort(address)
	l := scenario.Load{
		From: []string{"client"}, Connections: 500,
		To:   scenario.Target{Service: to.Addr().String(), Port: to.Port(), Family: scenario.IPv4},
		Want: scenario.Want{Outcome: scenario.Connected, Via: scenario.ViaSocket, Split: split, Port: target},
	}
	if to.Addr().Is6() {
		l.To.Family = scenario.IPv6
	}
	if len(split) > 1 {
		l.Connections = most
	}
	if len(split) == 0 {
		l.Want = scenario.Want{Outcome: scenario.RefusedByMesh}
	}
	return l
}

// run judges a declared mesh.
func run(ctx context.Context, name string, d declared, loads ...scenario.Load) report.Result {
	s := scenario.Scenario{
		Name: name, Summary: name, Topology: fleet(), Phases: []scenario.Phase{{Loads: loads}},
	}
	for _, l := range loads { // by name alone: the declared mesh says the rest
		if l.To.Service != "" {
			s.Objects.Services = append(s.Objects.Services, scenario.Service{
				Name: l.To.Service, Family: l.To.Family, Ports: []scenario.Port{{Port: l.To.Port, Target: 8080}},
			})
		}
	}
	return verify.Run(ctx, s, verify.Options{World: "netsim+istiod", Open: d.opener}, 1)
}

const both, mine = .5, 1.0

var _ = Describe("what is declared in Kubernetes", func() {
	DescribeTable("decides where connections go", func(ctx SpecContext, d declared, loads ...scenario.Load) {
		r := run(ctx, CurrentSpecReport().LeafNodeText, d, loads...)
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
	},
		Entry("a Service, applied and changed by kubectl", SpecTimeout(time.Minute), declared{
			with:   kubectlService,
			yaml:   service("10.96.200.1", "app: v2", "{port: 80, targetPort: 8080}"),
			routes: map[string]map[string]float64{"10.96.200.1:80": {"v1:8080": mine}},
		}, ask("10.96.200.1:80", map[string]float64{"v1": 1}, 8080)),

		Entry("an EndpointSlice written by hand, and nobody overwrites it", SpecTimeout(time.Minute), declared{
			yaml: `
apiVersion: v1
kind: Service
metadata: {name: hand}
spec: {clusterIP: 10.96.200.2, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: hand-1, labels: {kubernetes.io/service-name: hand}}
addressType: IPv4
ports: [{name: http, port: 9090, protocol: TCP}]
endpoints: [{addresses: ["%v3%"]}]
`,
			routes: map[string]map[string]float64{"10.96.200.2:80": {"v3:9090": mine}},
		}, ask("10.96.200.2:80", map[string]float64{"v3": 1}, 9090)),

		Entry("a ServiceEntry with inline endpoints and weights", SpecTimeout(time.Minute), declared{
			yaml: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: inline}
spec:
  hosts: [inline.example.com]
  addresses: [10.96.200.3]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: "%v1%", weight: 3}, {address: "%v2%"}]
`,
			routes: map[string]map[string]float64{"10.96.200.3:80": {"v1:8080": .75, "v2:8080": .25}},
		}, ask("10.96.200.3:80", map[string]float64{"v1": .75, "v2": .25}, 8080)),

		Entry("WorkloadEntry weights behind a ServiceEntry, one port by name", SpecTimeout(time.Minute), declared{
			yaml: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: picked}
spec:
  hosts: [picked.example.com]
  addresses: [10.96.200.4]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm1}
spec: {address: "%v2%", weight: 9, labels: {app: vm}, ports: {http: 9090}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm2}
spec: {address: "%v3%", labels: {app: vm}, ports: {http: 9090}}
`,
			routes: map[string]map[string]float64{"10.96.200.4:80": {"v2:9090": .9, "v3:9090": .1}},
		}, ask("10.96.200.4:80", map[string]float64{"v2": .9, "v3": .1}, 9090)),

		Entry("publishNotReadyAddresses keeps a pod that is not ready; another Service does not", SpecTimeout(time.Minute), declared{
			yaml: `
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {clusterIP: 10.96.200.5, publishNotReadyAddresses: true, selector: {app: v2}, ports: [{port: 80, targetPort: 8080}]}
---
` + service("10.96.200.6", "app: v2", "{port: 80, targetPort: 8080}"),
			then: func(ctx context.Context, _ *netsim.Cluster) error {
				return plane.Stack().SetReady(ctx, "default", "v2", false)
			},
			routes: map[string]map[string]float64{"10.96.200.5:80": {"v2:8080": mine}, "10.96.200.6:80": {}},
		}, ask("10.96.200.5:80", map[string]float64{"v2": 1}, 8080), ask("10.96.200.6:80", nil, 0)),

		Entry("a Service of both families", SpecTimeout(time.Minute), declared{
			yaml: `
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  clusterIP: 10.96.200.7
  clusterIPs: [10.96.200.7, "fd96::c807"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: v2}
  ports: [{port: 80, targetPort: 8080}]
`,
			routes: map[string]map[string]float64{"10.96.200.7:80": {"v2:8080": mine}, "[fd96::c807]:80": {"v2:8080": mine}},
		}, ask("10.96.200.7:80", map[string]float64{"v2": 1}, 8080), ask("[fd96::c807]:80", map[string]float64{"v2": 1}, 8080)),

		Entry("trafficDistribution and internalTrafficPolicy: near pods alone; without them all", SpecTimeout(time.Minute), declared{
			yaml: zoned("near", "10.96.200.8", "trafficDistribution: PreferClose,") + "---" +
				zoned("local", "10.96.200.9", "internalTrafficPolicy: Local,") + "---" + zoned("any", "10.96.200.10", ""),
			then: func(ctx context.Context, _ *netsim.Cluster) error { return label(ctx, "tier", "web", "v1", "v2") },
			routes: map[string]map[string]float64{
				"10.96.200.8:80": {"v1:8080": mine}, "10.96.200.9:80": {"v1:8080": mine},
				"10.96.200.10:80": {"v1:8080": both, "v2:8080": both},
			},
		}, ask("10.96.200.8:80", map[string]float64{"v1": 1}, 8080), ask("10.96.200.9:80", map[string]float64{"v1": 1}, 8080),
			ask("10.96.200.10:80", map[string]float64{"v1": .5, "v2": .5}, 8080)),

		Entry("a mesh network with a name: what is on another one is not chosen", SpecTimeout(time.Minute), declared{
			config: netsim.Config{Network: "net1"},
			with:   onNetwork("net1"),
			yaml: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide}
spec:
  hosts: [wide.example.com]
  addresses: [10.96.200.11]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: "%v2%"}, {address: "%v3%", network: elsewhere}]
---
` + service("10.96.200.12", "app: v1", "{port: 80, targetPort: 8080}"),
			routes: map[string]map[string]float64{"10.96.200.11:80": {"v2:8080": mine}, "10.96.200.12:80": {"v1:8080": mine}},
		}, ask("10.96.200.11:80", map[string]float64{"v2": 1}, 8080), ask("10.96.200.12:80", map[string]float64{"v1": 1}, 8080)),

		Entry("a port by name that each pod has elsewhere", SpecTimeout(time.Minute), declared{
			with: func(ctx context.Context, _ *netsim.Cluster, yaml string) error { return recreated(ctx, yaml) },
			yaml: namedPort("v2", 8080) + "---" + namedPort("v3", 9090) + "---" +
				service("10.96.200.13", "app: v2", "{port: 80, targetPort: web}") + "---" +
				service("10.96.200.14", "app: v3", "{port: 80, targetPort: web}") + "---" +
				service("10.96.200.15", "kind: named", "{port: 80, targetPort: web}"),
			routes: map[string]map[string]float64{
				"10.96.200.13:80": {"v2:8080": mine}, "10.96.200.14:80": {"v3:9090": mine},
				"10.96.200.15:80": {"v2:8080": both, "v3:9090": both},
			},
		}, ask("10.96.200.13:80", map[string]float64{"v2": 1}, 8080), ask("10.96.200.14:80", map[string]float64{"v3": 1}, 9090)),
	)

	It("leaves the pods of a headless Service alone", func(ctx SpecContext) {
		d := declared{
			yaml: `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: v2}, ports: [{port: 80, targetPort: 8080}]}
---
` + service("10.96.200.16", "app: v2", "{port: 80, targetPort: 8080}"), // shows when istiod has sent it
			routes: map[string]map[string]float64{"10.96.200.16:80": {"v2:8080": mine}},
		}
		direct := scenario.Load{
			From: []string{"client"}, Connections: 500, To: scenario.Target{Pod: "v2", Port: 8080, Family: scenario.IPv4},
			Want: scenario.Want{Outcome: scenario.Connected, Via: scenario.ViaNone, Split: map[string]float64{"v2": 1}, Port: 8080},
		}
		r := run(ctx, "headless", d, direct)
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
	}, SpecTimeout(time.Minute))

	// The control of all of the above: what istiod says is what is judged.
	It("is judged as it is, not as it was: the control", func(ctx SpecContext) {
		d := declared{
			yaml:   service("10.96.200.17", "app: v1", "{port: 80, targetPort: 8080}"),
			routes: map[string]map[string]float64{"10.96.200.17:80": {"v1:8080": mine}},
		}
		r := run(ctx, "control", d, ask("10.96.200.17:80", map[string]float64{"v2": 1}, 8080))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("served by v1, which is not declared"))
	}, SpecTimeout(time.Minute))
})

// service is a Service at an address, named after it.
func service(address, selector, port string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %q}
spec: {clusterIP: %s, selector: {%s}, ports: [%s]}
`, "s-"+strings.ReplaceAll(address, ".", "-"), address, selector, port)
}

func zoned(name, address, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {clusterIP: %s, %s selector: {tier: web}, ports: [{port: 80, targetPort: 8080}]}
`, name, address, more)
}

// namedPort is a Pod whose port "web" is its own.
func namedPort(pod string, port int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s, kind: named}}
spec:
  containers: [{name: traffic, image: duomesh.io/netsim, ports: [{name: web, containerPort: %d}]}]
`, pod, pod, port)
}

// recreated deletes the pods v2 and v3, so that others of their names can be made.
func recreated(ctx context.Context, yaml string) error {
	old := "{apiVersion: v1, kind: Pod, metadata: {name: v2}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: v3}}\n"
	if err := remove(old); err != nil {
		return err
	}
	return plane.Stack().ApplyYAML(ctx, yaml)
}

// label gives pods a label.
func label(ctx context.Context, name, value string, pods ...string) error {
	for _, pod := range pods {
		if out, err := kubectl(ctx, "", "label", "pod", pod, name+"="+value); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// onNetwork names the mesh's network while the spec runs.
func onNetwork(network string) func(context.Context, *netsim.Cluster, string) error {
	return func(ctx context.Context, _ *netsim.Cluster, yaml string) error {
		const key = "topology.istio.io/network"
		DeferCleanup(func(ctx SpecContext) {
			_, err := kubectl(ctx, "", "label", "namespace", "istio-system", key+"-")
			Expect(err).NotTo(HaveOccurred())
		})
		if _, err := kubectl(ctx, "", "label", "namespace", "istio-system", key+"="+network); err != nil {
			return err
		}
		return plane.Stack().ApplyYAML(ctx, yaml)
	}
}

// kubectlService applies by kubectl, sees the pods there, and changes the selector.
func kubectlService(ctx context.Context, c *netsim.Cluster, yaml string) error {
	if _, err := kubectl(ctx, yaml, "apply", "-f", "-"); err != nil {
		return err
	}
	if err := awaitRoutes(ctx, c, map[string]map[string]float64{"10.96.200.1:80": {"v2:8080": mine}}); err != nil {
		return err
	}
	out, err := kubectl(ctx, "", "get", "pods", "--no-headers")
	if err != nil {
		return err
	}
	if n := strings.Count(out, "1/1"); n != 4 {
		return fmt.Errorf("%d pods are ready, want 4:\n%s", n, out)
	}
	_, err = kubectl(ctx, "", "patch", "service", "s-10-96-200-1", "-p", `{"spec":{"selector":{"app":"v1"}}}`)
	return err
}

// kubectl runs it on this machine, outside of every namespace of the cluster.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	exe := os.Getenv("KUBECTL_BIN")
	if exe == "" {
		return "", fmt.Errorf("%w: KUBECTL_BIN names no kubectl", scenario.ErrNotExpressible)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = []string{"KUBECONFIG=" + plane.Kubeconfig(), "HOME=" + plane.Dir(), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", args[0], err, out.String())
	}
	return out.String(), nil
}
