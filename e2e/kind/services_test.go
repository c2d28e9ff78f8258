package kind

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// external is a service that Kubernetes does not know: nobody but the mesh serves its
// address, which is of a block that no network uses.
const (
	externalAddress = "240.240.7.7"
	external        = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: external}
spec:
  hosts: [external.example]
  addresses: [%s]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: fortio}}
`
	headless = `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: fortio}
  ports: [{name: http, port: 8080}]
`
)

const dual = `
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: fortio}
  ports: [{name: http, port: 80, targetPort: 8080}]
`

var _ = Describe("services", Label("services"), Ordered, ContinueOnFailure, func() {
	const namespace = "services"

	BeforeAll(func(ctx SpecContext) {
		enrolled(ctx, namespace)
		kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-route.yaml", "-f", "samples/fortio/netutils.yaml")
		kubectl(ctx, "delete", "virtualservice", "-n", namespace, "fortio")
		rolledOut(ctx, namespace, "fortio-v1", "fortio-v2", "netutils")
	}, NodeTimeout(6*time.Minute))

	// answers are those of requests to a URL, each on a connection of its own.
	answers := func(ctx context.Context, url string, n int, options ...string) string {
		GinkgoHelper()
		return counted(ctx, namespace, fmt.Sprintf(
			`curl -s -m 5 -o /dev/null -D - -H 'Connection: close' %s '%s/[1-%d]'`, strings.Join(options, " "), url, n)+count)
	}
	both := MatchRegexp(`^server: 1 \d+, server: 2 \d+$`)

	It("names are answered by the cluster's name server, over UDP and over TCP", func(ctx SpecContext) {
		at := kubectl(ctx, "get", "service", "-n", namespace, "fortio", "-o", "jsonpath={.spec.clusterIP}")
		for _, option := range []string{"", "use-vc"} { // use-vc: over TCP (resolv.conf)
			out := kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "sh", "-c",
				"RES_OPTIONS="+option+` curl -s -o /dev/null -w '%{remote_ip} %{http_code}' http://fortio.`+namespace+".svc.cluster.local/")
			Expect(out).To(Equal(at+" 200"), "with option %q", option)
		}
	}, SpecTimeout(2*time.Minute))

	It("the API server answers at kubernetes.default:443", func(ctx SpecContext) {
		Expect(kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--",
			"curl", "-sk", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "https://kubernetes.default:443/healthz")).
			To(Or(Equal("200"), Equal("401"), Equal("403")))
	}, SpecTimeout(2*time.Minute))

	It("a headless service leads to its pods themselves", func(ctx SpecContext) {
		apply(ctx, namespace, headless)
		// curl asks for the name once, and then for the first address that it was told.
		for _, version := range []string{"2", "1"} {
			kubectl(ctx, "scale", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2", "--replicas=1")
			kubectl(ctx, "scale", "-n", namespace, "deployment/fortio-v"+map[string]string{"1": "2", "2": "1"}[version], "--replicas=0")
			Eventually(ctx, func() string { return answers(ctx, "http://headless:8080", 20) }, patience).Should(Equal("server: " + version + " 20"))
		}
		kubectl(ctx, "scale", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2", "--replicas=1")
		rolledOut(ctx, namespace, "fortio-v1", "fortio-v2")
	}, SpecTimeout(8*time.Minute))

	It("a service of two families is reached at each of its addresses", func(ctx SpecContext) {
		if !dualStack {
			Skip("NOT RUN: the cluster has IPv4 alone (KIND_IP_FAMILY=dual makes one that has both)")
		}
		apply(ctx, namespace, dual)
		for _, family := range []string{"-4", "-6"} {
			Eventually(ctx, func() string { return answers(ctx, "http://dual", 50, family) }, patience).Should(both)
		}
		at := strings.Fields(kubectl(ctx, "get", "service", "-n", namespace, "dual", "-o", "jsonpath={.spec.clusterIPs[*]}"))
		Expect(at).To(HaveLen(2))
		for i, family := range []string{"-4", "-6"} {
			Expect(kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--",
				"curl", "-s", "-m", "10", "-o", "/dev/null", family, "-w", "%{remote_ip} %{http_code}", "http://dual/")).To(Equal(at[i] + " 200"))
		}
	}, SpecTimeout(5*time.Minute))

	It("a ServiceEntry's address leads to the pods that it selects", func(ctx SpecContext) {
		Expect(answers(ctx, "http://"+externalAddress, 1)).To(BeEmpty(), "before there is one")
		apply(ctx, namespace, fmt.Sprintf(external, externalAddress))
		Eventually(ctx, func() string { return answers(ctx, "http://"+externalAddress, 20) }, patience).Should(both)
		got := answers(ctx, "http://"+externalAddress, 400)
		Expect(got).To(both)
		Expect(strings.Count(got, "server")).To(Equal(2))
		say("a ServiceEntry: %s", got)
	}, SpecTimeout(4*time.Minute))

	It("a ServiceEntry's address leads nowhere outside the mesh: the control", func(ctx SpecContext) {
		kubectl(ctx, "run", "-n", namespace, "outside", "--image=duomesh/netutils:"+tag(), "--image-pull-policy=IfNotPresent",
			"--labels=istio.io/dataplane-mode=none")
		kubectl(ctx, "wait", "-n", namespace, "--for=condition=Ready", "pod/outside", "--timeout=120s")
		out, err := tryKubectl(ctx, "exec", "-n", namespace, "outside", "--", "curl", "-s", "-m", "5", "http://"+externalAddress+"/")
		Expect(err).To(HaveOccurred(), out)
		Expect(err.Error()).To(MatchRegexp(`exit code (7|28)`))
	}, SpecTimeout(3*time.Minute))
})
