package istiod

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

// throughWaypoint is a service by way of a declared waypoint.
func throughWaypoint() scenario.Objects {
	return scenario.Objects{Services: []scenario.Service{{
		Name: "echo", Family: scenario.IPv4, Waypoint: "waypoint", Ports: []scenario.Port{{Port: 80, Target: 8080, Name: "http"}},
		Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}},
	}}}
}

// served makes four requests through the waypoint and says how many were answered.
func served(ctx context.Context, c *netsim.Cluster) int {
	GinkgoHelper()
	to := must(c.Resolve(scenario.Target{Service: "echo", Port: 80}))
	conns := must(c.Exec(ctx, "client", traffic.Load{To: to, Connections: 4, Workers: 1, HTTP: &traffic.HTTP{Requests: 1}}, nil))
	n := 0
	for _, conn := range conns {
		for _, r := range conn.Requests {
			if r.Server == "v1" {
				n++
			}
		}
	}
	return n
}

// saidOf is what kubectl says of an object.
func saidOf(ctx context.Context, args ...string) string {
	out, err := kubectl(ctx, "", append([]string{"get"}, args...)...)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}

const readiness = `-o=jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="ContainersReady")].status} {.status.containerStatuses[0].ready}`

// withoutStatus is an object as a person would keep it, to make it again.
func withoutStatus(text string) string {
	GinkgoHelper()
	var o map[string]any
	Expect(json.Unmarshal([]byte(text), &o)).To(Succeed())
	delete(o, "status")
	meta, is := o["metadata"].(map[string]any)
	Expect(is).To(BeTrue())
	o["metadata"] = map[string]any{"name": meta["name"], "namespace": meta["namespace"], "labels": meta["labels"]}
	return string(must(json.Marshal(o)))
}

// parentOf is the process that has started another one.
func parentOf(pid int) int {
	GinkgoHelper()
	status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))))
	_, after, found := strings.Cut(status, "PPid:")
	Expect(found).To(BeTrue())
	return must(strconv.Atoi(strings.Fields(after)[0]))
}

// What a person does to a waypoint by kubectl, or by a signal, can be seen, and undone.
var _ = Describe("the waypoint of a declared topology", Label(byWaypoint), func() {
	It("is ready when it serves, also when its Pod, its Gateway or its process goes and comes again", func(ctx SpecContext) {
		c := must(openWith(ctx, netsim.Config{}, wayfarers()))
		DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
		Expect(c.Apply(ctx, throughWaypoint())).To(Succeed())
		pod := func() string { return saidOf(ctx, "pod", "waypoint", readiness) }
		deployment := func() string {
			return saidOf(ctx, "deployment", "waypoint", "-o=jsonpath={.status.readyReplicas}/{.status.replicas}")
		}
		well := func(what string) {
			GinkgoHelper()
			Eventually(pod).WithContext(ctx).WithTimeout(routeTime).Should(Equal("True True true"), what)
			Eventually(deployment).WithContext(ctx).WithTimeout(routeTime).Should(Equal("1/1"), what)
			Eventually(func() int { return served(ctx, c) }).WithContext(ctx).WithTimeout(routeTime).Should(Equal(4), what)
		}
		well("at first")

		By("deleting the Pod and applying it again")
		manifest := must(kubectl(ctx, "", "get", "pod", "waypoint", "-o", "json"))
		must(kubectl(ctx, "", "delete", "pod", "waypoint"))
		must(kubectl(ctx, withoutStatus(manifest), "apply", "-f", "-"))
		well("made again")

		By("deleting the Gateway and applying the topology again")
		must(kubectl(ctx, "", "delete", "gateway", "waypoint"))
		Eventually(func() string {
			return saidOf(ctx, "deployment,service,serviceaccount", "waypoint", "-o", "name", "--ignore-not-found")
		}).WithContext(ctx).WithTimeout(routeTime).Should(BeEmpty())
		Expect(c.Apply(ctx, throughWaypoint())).To(Succeed())
		well("its Gateway made again")

		By("killing the process")
		pid := parentOf(must(c.WaypointStatus(ctx, "waypoint")).Envoy.PID)
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		Eventually(func() []string { return c.Ended() }).WithContext(ctx).WithTimeout(routeTime).Should(Equal([]string{"waypoint"}))
		Eventually(pod).WithContext(ctx).WithTimeout(routeTime).Should(Equal("False False false"))
		Expect(served(ctx, c)).To(BeZero())
		Expect(netsim.ReviveOf(ctx, filepath.Dir(c.Dir()), c.ID(), "waypoint")).To(Succeed())
		well("started again")
	}, SpecTimeout(4*time.Minute))
})
