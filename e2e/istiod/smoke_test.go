package istiod

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/netsim"
)

// toEcho is a route to all of echo.
const toEcho = "route: [{destination: {host: echo.default.svc.cluster.local}}]"

// toV1 is one to its first version.
const toV1 = "route: [{destination: {host: echo.default.svc.cluster.local, subset: v1}}]"

// early is how many seconds before its time a timer of Envoy may go off: it is set by the
// time at which the event loop woke, a little before.
const early = .05

// The features of Istio's rules that are Envoy's alone, each seen to work, and seen not
// to be there before its rule is.
var _ = Describe("through a waypoint, by a rule", Ordered, Label(byWaypoint), func() {
	var c *netsim.Cluster
	BeforeAll(func(ctx SpecContext) { c = through(ctx, netsim.Config{}, "waypoint") }, NodeTimeout(2*time.Minute))

	// smoke is one feature: what is asked, and what must be true of the answer by the
	// rule, and must not without.
	type smoke struct {
		http  string // of a VirtualService
		kind  string // of another rule
		spec  string
		ask   web.Task
		holds func(g Gomega, r web.Result)
	}
	header := func(name string, value any) func(Gomega, web.Result) {
		return func(g Gomega, r web.Result) { g.Expect(r.Header).To(HaveKeyWithValue(name, value)) }
	}
	status := func(code string) func(Gomega, web.Result) {
		return func(g Gomega, r web.Result) { g.Expect(r.Got).To(HaveKey(code)) }
	}
	text := func(part string) func(Gomega, web.Result) {
		return func(g Gomega, r web.Result) { g.Expect(r.Text).To(ContainSubstring(part)) }
	}
	DescribeTable("works", func(ctx SpecContext, s smoke) {
		if s.ask.Do == "" {
			s.ask.Do = "http"
		}
		tried := func() (failure string) {
			g := NewGomega(func(message string, _ ...int) { failure = message })
			s.holds(g, send(ctx, c, "client", s.ask))
			return failure
		}
		Eventually(ctx, tried).WithTimeout(patience).ShouldNot(BeEmpty(), "the control: it is so without the rule")
		if s.kind == "" {
			s.kind, s.spec = "VirtualService", "hosts: [echo.default.svc.cluster.local]\nhttp:\n"+s.http
		}
		rule(ctx, c, s.kind, "smoke", s.spec)
		Eventually(ctx, tried).WithTimeout(patience).Should(BeEmpty())
		for range 5 {
			Expect(tried()).To(BeEmpty(), "it worked, and does not always")
		}
	},
		Entry("URI rewrite", SpecTimeout(time.Minute), smoke{
			http: "- match: [{uri: {prefix: /old/}}]\n  rewrite: {uri: /echo/new/}\n  " + toEcho,
			ask:  web.Task{URL: echoURL + "/old/page"}, holds: text(`"path":"/echo/new/page"`),
		}),
		Entry("redirect", SpecTimeout(time.Minute), smoke{
			http: "- match: [{uri: {prefix: /moved}}]\n  redirect: {uri: /echo/here, redirectCode: 302}\n- " + toEcho,
			ask:  web.Task{URL: echoURL + "/moved"},
			holds: func(g Gomega, r web.Result) {
				status("302")(g, r)
				header("location", ContainSubstring("/echo/here"))(g, r)
			},
		}),
		Entry("request timeout", SpecTimeout(time.Minute), smoke{
			http: "- timeout: 0.2s\n  " + toEcho,
			ask:  web.Task{URL: echoURL + "/slow", Header: pairs([]string{"x-time", "1s"})}, holds: status("504"),
		}),
		Entry("fault: abort", SpecTimeout(time.Minute), smoke{
			http: "- match: [{headers: {x-fault: {exact: abort}}}]\n  fault: {abort: {percentage: {value: 100}, httpStatus: 418}}\n  " + toEcho + "\n- " + toEcho,
			ask:  web.Task{URL: echoURL, Header: pairs([]string{"x-fault", "abort"})}, holds: status("418"),
		}),
		Entry("fault: delay", SpecTimeout(time.Minute), smoke{
			http: "- fault: {delay: {percentage: {value: 100}, fixedDelay: 2s}}\n  " + toEcho,
			ask:  web.Task{URL: echoURL}, holds: func(g Gomega, r web.Result) { g.Expect(r.Took).To(BeNumerically(">", 2-early)) },
		}),
		Entry("CORS", SpecTimeout(time.Minute), smoke{
			http: "- corsPolicy: {allowOrigins: [{exact: \"https://shop.example.com\"}], allowMethods: [GET, PUT]}\n  " + toEcho,
			ask: web.Task{URL: echoURL, Method: "OPTIONS", Header: pairs([]string{
				"origin", "https://shop.example.com", "access-control-request-method", "PUT",
			})},
			holds: header("access-control-allow-origin", "https://shop.example.com"),
		}),
		Entry("headers added and removed", SpecTimeout(time.Minute), smoke{
			http: "- headers: {response: {add: {x-added: by-rule}, remove: [x-server]}}\n  " + toEcho,
			ask:  web.Task{URL: echoURL},
			holds: func(g Gomega, r web.Result) {
				header("x-added", "by-rule")(g, r)
				g.Expect(r.Header).NotTo(HaveKey("x-server"))
			},
		}),
		Entry("L7 AuthorizationPolicy: DENY by method", SpecTimeout(time.Minute), smoke{
			kind: "AuthorizationPolicy", spec: onEcho + "action: DENY\nrules: [{to: [{operation: {methods: [POST]}}]}]",
			ask: web.Task{URL: echoURL, Method: "POST"}, holds: status("403"),
		}),
		Entry("L7 AuthorizationPolicy: DENY by path", SpecTimeout(time.Minute), smoke{
			kind: "AuthorizationPolicy", spec: onEcho + "action: DENY\nrules: [{to: [{operation: {paths: [/echo/secret*]}}]}]",
			ask: web.Task{URL: echoURL + "/echo/secret/1"}, holds: status("403"),
		}),
		Entry("L7 AuthorizationPolicy: ALLOW by header alone", SpecTimeout(time.Minute), smoke{
			kind: "AuthorizationPolicy", spec: onEcho + "action: ALLOW\nrules: [{when: [{key: \"request.headers[x-token]\", values: [right]}]}]",
			ask: web.Task{URL: echoURL, Header: pairs([]string{"x-token", "wrong"})}, holds: status("403"),
		}),
	)

	It("an L7 AuthorizationPolicy lets through what it allows", func(ctx SpecContext) {
		asked := func(method, path, token string) map[string]int {
			r := send(ctx, c, "client", web.Task{Do: "http", URL: echoURL + path, Method: method, Header: pairs([]string{"x-token", token})})
			Expect(r.Got).To(HaveLen(1))
			if r.Failed == 0 {
				return map[string]int{"200": 1}
			}
			return r.Got
		}
		wrong := func() map[string]int { return asked("GET", "/echo/a", "wrong") }
		Eventually(ctx, wrong).WithTimeout(patience).Should(HaveKey("200"), "the control: the rules of other specs are gone")
		rule(ctx, c, "AuthorizationPolicy", "allow", onEcho+`action: ALLOW
rules:
- to: [{operation: {methods: [GET], paths: [/echo/*]}}]
  when: [{key: "request.headers[x-token]", values: [right]}]`)
		Eventually(ctx, wrong).WithTimeout(patience).Should(HaveKey("403"))
		Expect(asked("GET", "/echo/a", "right")).To(HaveKey("200"))
		Expect(asked("POST", "/echo/a", "right")).To(HaveKey("403"))
		Expect(asked("GET", "/other", "right")).To(HaveKey("403"))
	}, SpecTimeout(time.Minute))

	It("retries what fails, and what takes too long", func(ctx SpecContext) {
		n := 0
		flaky := func(fails string, slow string) web.Result {
			n++
			return send(ctx, c, "client", web.Task{Do: "http", URL: echoURL + "/flaky", Header: pairs([]string{
				"x-id", fmt.Sprintf("%s-%d", CurrentSpecReport().LeafNodeText, n), "x-fail", fails, "x-slow", slow,
			})})
		}
		vs := func(retries string) string {
			return "hosts: [echo.default.svc.cluster.local]\nhttp:\n- retries: " + retries + "\n  " + toV1
		}
		rule(ctx, c, "VirtualService", "smoke", vs("{attempts: 0}"))
		Expect(awaitTable(ctx, c, "waypoint", "|http/v1|")).To(Succeed())
		Eventually(ctx, func() map[string]int { return flaky("1", "").Got }).WithTimeout(patience).
			Should(HaveKey("503"), "the control: without retries it fails")
		rule(ctx, c, "VirtualService", "smoke", vs(`{attempts: 3, perTryTimeout: 300ms, retryOn: "5xx,reset"}`))
		Eventually(ctx, func() map[string]string { return flaky("2", "").Header }).WithTimeout(patience).
			Should(HaveKeyWithValue("x-try", "3"))
		r := flaky("2", "yes")
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(r.Header).To(HaveKeyWithValue("x-try", "3"))
		Expect(r.Took).To(BeNumerically(">", .6-2*early), "two tries of 300 ms each come first")
		Expect(flaky("9", "").Got).To(HaveKey("503"), "more failures than tries")
	}, SpecTimeout(time.Minute))

	It("mirrors requests to another service", func(ctx SpecContext) {
		mirrored := func() string {
			r := get(ctx, c, fmt.Sprintf("http://%s:%d/seen/mirrored", address(c, "v2"), web.HTTPPort))
			return r.Text
		}
		r := send(ctx, c, "client", web.Task{Do: "http", URL: echoURL + "/warm", Count: 10})
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(mirrored()).To(Equal("0"), "the control")
		rule(ctx, c, "VirtualService", "smoke", "hosts: [echo.default.svc.cluster.local]\nhttp:\n- "+toV1+
			"\n  mirror: {host: echo-v2.default.svc.cluster.local, port: {number: 80}}\n  mirrorPercentage: {value: 100}")
		Expect(awaitTable(ctx, c, "waypoint", `"request_mirror_policies"`)).To(Succeed())
		asked := 0
		Eventually(ctx, func() string {
			r := send(ctx, c, "client", web.Task{Do: "http", URL: echoURL + "/mirrored", Count: 10})
			Expect(r.Got).To(Equal(map[string]int{"v1": 10}))
			asked += 10
			return mirrored()
		}).WithTimeout(patience).ShouldNot(Equal("0"))
		Eventually(ctx, mirrored).WithTimeout(patience).Should(Equal(fmt.Sprint(asked)))
	}, SpecTimeout(time.Minute))

	It("leaves out an endpoint that fails: outlier detection", func(ctx SpecContext) {
		bad := func(n int) web.Result {
			return send(ctx, c, "client", web.Task{Do: "http", URL: echoURL + "/bad", Count: n, Header: pairs([]string{"x-bad", "v1"})})
		}
		half := And(HaveKey("v2"), HaveKey("500"))
		Eventually(ctx, func() map[string]int { return bad(20).Got }).WithTimeout(patience).Should(half, "what other specs applied is gone")
		for range 3 {
			Expect(bad(20).Got).To(half, "the control: without the rule half of them fail")
		}
		apply(ctx, c, `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo.default.svc.cluster.local
  subsets: [{name: v1, labels: {app: v1}}, {name: v2, labels: {app: v2}}]
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 0.5s, baseEjectionTime: 60s, maxEjectionPercent: 100}}
`)
		Eventually(ctx, func() map[string]int { return bad(20).Got }).WithTimeout(patience).Should(Equal(map[string]int{"v2": 20}))
		Expect(bad(100).Got).To(Equal(map[string]int{"v2": 100}))
	}, SpecTimeout(time.Minute))
})

// onEcho makes a policy one of the service.
const onEcho = "targetRefs: [{kind: Service, group: \"\", name: echo}]\n"
