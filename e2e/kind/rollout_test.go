package kind

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("under load", Label("rollout"), Ordered, ContinueOnFailure, func() {
	const namespace = "rollout"

	BeforeAll(func(ctx SpecContext) { fortioWithWaypoint(ctx, namespace, "") }, NodeTimeout(8*time.Minute))

	It("no request is lost while both versions are rolled out", func(ctx SpecContext) {
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			kubectl(ctx, "rollout", "restart", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2")
			rolledOut(ctx, namespace, "fortio-v1", "fortio-v2")
		}))
	}, SpecTimeout(6*time.Minute))

	It("no request is lost while the agents are rolled out", func(ctx SpecContext) {
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			kubectl(ctx, "rollout", "restart", "-n", system, "daemonset/duomesh-agent")
			agentsReady(ctx)
		}))
	}, SpecTimeout(6*time.Minute))

	It("no request is lost while the waypoint is rolled out", func(ctx SpecContext) {
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			kubectl(ctx, "rollout", "restart", "-n", namespace, "deployment/waypoint")
			rolledOut(ctx, namespace, "waypoint")
			Eventually(ctx, func() int {
				return strings.Count(kubectl(ctx, "get", "pods", "-n", namespace, "-l", "gateway.networking.k8s.io/gateway-name=waypoint", "-o", "name"), "\n")
			}, patience).Should(Equal(1), "pods of the waypoint")
		}))
	}, SpecTimeout(6*time.Minute))

	It("connections that fail are seen: the load's own control", func(ctx SpecContext) {
		lines := load(ctx, namespace, func(ctx context.Context) {
			kubectl(ctx, "scale", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2", "--replicas=0")
			Eventually(ctx, func() string {
				return kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app=fortio", "-o", "name")
			}, patience).Should(BeEmpty())
			Eventually(ctx, func() string { return counted(ctx, namespace, curlHeader("a: b", 5)) }, patience).ShouldNot(ContainSubstring("server: 1"))
		})
		Expect(lines[0].byStatus + " " + lines[1].byStatus).To(MatchRegexp(`(503|000) \d+`))
	}, SpecTimeout(5*time.Minute))
})
