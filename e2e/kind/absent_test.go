package kind

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// Nowhere is a node selector that no node has: the agents end, and are not removed.
const (
	nowhere = `{"spec":{"template":{"spec":{"nodeSelector":{"duomesh.io/nowhere":"true"}}}}}`
	back    = `{"spec":{"template":{"spec":{"nodeSelector":{"duomesh.io/nowhere":null}}}}}`
	system  = "duomesh-system"
)

// asked is what a pod does first of all, before anybody could have enrolled it but
// the CNI plugin: twenty requests to a service of two versions, of which its waypoint
// sends all to the second. Without the mesh half of them come to the first.
const asked = `for i in $(seq 20); do curl -s -m 20 -o /dev/null -D - http://fortio/ | grep -i '^server:' | tr -d '\r' | tr A-Z a-z; done; sleep infinity`

var _ = Describe("a pod that starts", Ordered, func() {
	const namespace = "absent"

	BeforeAll(func(ctx SpecContext) {
		fortioWithWaypoint(ctx, namespace)
		kubectl(ctx, "patch", "virtualservice", "-n", namespace, "fortio", "--type=merge", "-p",
			`{"spec":{"http":[{"route":[{"destination":{"host":"fortio","subset":"v2"}}]}]}}`)
		Eventually(ctx, func() string { return counted(ctx, namespace, curlHeader("a: b", 50)) }, time.Minute).Should(Equal("server: 2 50"))
	}, NodeTimeout(6*time.Minute))

	start := func(ctx SpecContext, name string) {
		GinkgoHelper()
		kubectl(ctx, "run", "-n", namespace, name, "--image=duomesh/netutils:"+tag(), "--image-pull-policy=IfNotPresent",
			"--restart=Never", "--command", "--", "sh", "-c", asked)
	}
	inside := func(ctx SpecContext, name string) {
		GinkgoHelper()
		Eventually(ctx, func() string { return kubectl(ctx, "logs", "-n", namespace, name) }, 90*time.Second).
			Should(Equal(strings.Repeat("server: 2\n", 20)))
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "pod", "-n", namespace, name, "-o", `jsonpath={.metadata.annotations.kmesh\.net/redirection}`)
		}, time.Minute).Should(Equal("enabled"))
	}

	It("is in the mesh before its first process", func(ctx SpecContext) {
		start(ctx, "first")
		kubectl(ctx, "wait", "-n", namespace, "--for=condition=Ready", "pod/first", "--timeout=60s")
		inside(ctx, "first")
	}, SpecTimeout(4*time.Minute))

	It("waits while its node has no agent, and is never outside the mesh", func(ctx SpecContext) {
		kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", nowhere)
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", back)
			kubectl(ctx, "rollout", "status", "-n", system, "daemonset/duomesh-agent", "--timeout=120s")
		}, NodeTimeout(3*time.Minute))
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "pods", "-n", system, "-o", "name")
		}, time.Minute).Should(BeEmpty())
		start(ctx, "waits")
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "events", "-n", namespace, "--field-selector=involvedObject.name=waits", "-o", "jsonpath={.items[*].message}")
		}, 90*time.Second).Should(ContainSubstring("no agent answers"))
		Expect(kubectl(ctx, "get", "pod", "-n", namespace, "waits", "-o", "jsonpath={.status.phase}")).To(Equal("Pending"))
		// What was enrolled goes on meanwhile, by what is pinned.
		Expect(counted(ctx, namespace, curlHeader("a: b", 50))).To(Equal("server: 2 50"))

		kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", back)
		inside(ctx, "waits")
	}, SpecTimeout(6*time.Minute))
})
