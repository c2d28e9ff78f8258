package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// The nodes of a kind cluster have this machine's kernel. One of them is given an older
// one, as far as the agent can see: a program in the place of runc has the kernel answer
// the agent's bpf(2) as one does that does not know a command, from some number on. A real
// 5.6 knows fewer helpers and hooks, too, which TestUnsupportedKernel of the agent plays: of
// both the agent says the same.
const (
	beforeLinks = unix.BPF_LINK_CREATE // 5.6 and older
	knowsAll    = 1000
)

// older puts a program before a node's runc. It is told first, the number of the first
// command of bpf(2) that is unknown, and touches no container but the agent's.
const older = `set -e
runc=$(readlink -f "$(command -v runc)")
ln "$runc" "$runc.real"
cat >"$runc.part" <<END
#!/bin/sh
for word; do [ "\$was" != --bundle ] || bundle=\$word; was=\$word; done
if [ -n "\$bundle" ] && grep -q -- --daemonset=duomesh-agent "\$bundle/config.json"; then
	sed -i 's/"linux":{/&"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[{"index":0,"value":%d,"op":"SCMP_CMP_GE"}]}]},/' "\$bundle/config.json"
fi
exec $runc.real "\$@"
END
chmod 755 "$runc.part"
mv "$runc.part" "$runc"
`

// itself gives the node its runc back.
const itself = `runc=$(readlink -f "$(command -v runc)") && if [ -e "$runc.real" ]; then mv "$runc.real" "$runc"; fi`

// itselfAgain gives a node its runc back, and an agent if it has none: the one that there is
// would be tried again, too, and later.
func itselfAgain(ctx context.Context, node string) {
	GinkgoHelper()
	onNode(ctx, node, itself)
	if agentOn(ctx, node, ".status.containerStatuses[0].ready") != "true" {
		replaceAgent(ctx, node)
	}
}

// starts is what a kernel that has just started has of an engine: nothing.
const starts = `rm -rf /sys/fs/bpf/duomesh`

// onNode runs a shell command on a node, by the container engine.
func onNode(ctx context.Context, node, command string) {
	GinkgoHelper()
	out, err := exec.CommandContext(ctx, "docker", "exec", node, "sh", "-c", command).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "on node %s: %s", node, out)
}

// fails runs the command, which ends with code 1, and returns what it says.
func fails(ctx context.Context, args ...string) string {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, "bin/duomesh", args...)
	cmd.Dir = repository
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	Expect(errors.As(err, &exit)).To(BeTrue(), "duomesh %v: %v: %s", args, err, out)
	Expect(exit.ExitCode()).To(Equal(1), "duomesh %v: %s", args, out)
	return string(out)
}

// agentOn is something about the agent's pod on a node.
func agentOn(ctx context.Context, node, path string) string {
	GinkgoHelper()
	return kubectl(ctx, "get", "pods", "-n", system, "-l", "app.kubernetes.io/name=duomesh-agent",
		"--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[*]"+path+"}")
}

// replaceAgent ends the agent of a node; another one starts.
func replaceAgent(ctx context.Context, node string) {
	GinkgoHelper()
	kubectl(ctx, "delete", "pods", "-n", system, "-l", "app.kubernetes.io/name=duomesh-agent", "--field-selector=spec.nodeName="+node)
}

// heading is that under which duomesh status has what the agent of a node says.
func heading(node string) string { return " NODE " + strings.ToUpper(node) + " " }

// told are the events about a pod.
func told(ctx context.Context, namespace, pod string) string {
	GinkgoHelper()
	return kubectl(ctx, "get", "events", "-n", namespace, "--field-selector=involvedObject.name="+pod,
		"-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

var _ = Describe("a node whose kernel is not supported", Label("unsupported"), Ordered, func() {
	const (
		namespace = "unsupported"
		says      = "cannot carry the engine: it has no cgroup connect, which Linux has since 5.7"
	)
	var stays, goes string
	annotation := func(ctx context.Context, pod string) string {
		return kubectl(ctx, "get", "pod", "-n", namespace, pod, "-o", `jsonpath={.metadata.annotations.kmesh\.net/redirection}`)
	}

	BeforeAll(func(ctx SpecContext) {
		if os.Getenv("DUOMESH_E2E_OWN") == "" {
			Skip("NOT RUN: it replaces the runc of a node and installs duomesh anew, which is not done to a cluster that was there")
		}
		all := workers(ctx)
		if len(all) < 2 {
			Skip("NOT RUN: the cluster has one node that takes pods")
		}
		stays, goes = all[0], all[1]
		if out, err := exec.CommandContext(ctx, "docker", "inspect", goes).CombinedOutput(); err != nil {
			Skip(fmt.Sprintf("NOT RUN: node %s is no container of an engine that can be asked (DOCKER_HOST %q): %s",
				goes, os.Getenv("DOCKER_HOST"), strings.TrimSpace(string(out))))
		}
		// A run that was killed may have left a node with an older kernel.
		for _, node := range all {
			itselfAgain(ctx, node)
		}
		agentsReady(ctx)
		DeferCleanup(func(ctx SpecContext) {
			itselfAgain(ctx, goes)
			program(ctx, nil, "bin/duomesh", "install", "--set", "image.tag="+tag())
			agentsReady(ctx)
		}, NodeTimeout(4*time.Minute))
		fortioWithWaypoint(ctx, namespace, "")
		for _, d := range []string{"fortio-v1", "fortio-v2", "waypoint", "netutils"} {
			pin(ctx, namespace, d, stays)
		}
		passesWaypoint(ctx, namespace)
		allToSecond(ctx, namespace)
		startAsking(ctx, namespace, "there-before", goes)
		inside(ctx, namespace, "there-before")
	}, NodeTimeout(9*time.Minute))

	It("is one that has all commands of bpf(2): the control", func(ctx SpecContext) {
		onNode(ctx, goes, fmt.Sprintf(older, knowsAll))
		onNode(ctx, goes, starts)
		replaceAgent(ctx, goes)
		agentsReady(ctx)
		Expect(agentOn(ctx, goes, ".status.containerStatuses[0].restartCount")).To(Equal("0"))
		onNode(ctx, goes, itself)
	}, SpecTimeout(5*time.Minute))

	It("has an agent that says what is missing, and leaves the other nodes alone", func(ctx SpecContext) {
		before := through(ctx, namespace)
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			onNode(ctx, goes, fmt.Sprintf(older, beforeLinks))
			onNode(ctx, goes, starts)
			replaceAgent(ctx, goes)
			Eventually(ctx, func() string {
				return agentOn(ctx, goes, ".status.containerStatuses[0].lastState.terminated.message")
			}, patience).Should(MatchRegexp("(?m)^duomesh-agent: node " + goes + ": open engine: Linux .* " + says))
			startAsking(ctx, namespace, "there-after", goes)

			status := fails(ctx, "status", "--kubeconfig", os.Getenv("KUBECONFIG"))
			Expect(status).To(MatchRegexp("the agent of node " + goes + " does not answer: it does not run: .*duomesh-agent: node " + goes + ": .*" + says))
			Expect(status).To(And(ContainSubstring(heading(stays)), ContainSubstring("the kernel is as applied")))
			Expect(fails(ctx, "install", "--timeout=20s", "--set", "image.tag="+tag())).To(
				MatchRegexp(`agents are ready\n  node ` + goes + `: (.*\n.*it ended, and said last|it has ended with code 1): duomesh-agent: node ` + goes + `: .*` + says))
		}))
		Expect(through(ctx, namespace)-before).To(BeNumerically(">", 0), "requests that the waypoint has sent on")
		judge := observe(ctx, namespace)
		Expect(counted(ctx, namespace, curlConnections(50))).To(Equal("server: 2 50"))
		client := kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app=netutils", "-o", "jsonpath={.items[0].metadata.name}")
		toWaypoint, around := judge.opened(ctx, addressOf(ctx, namespace, client))
		Expect([]int{toWaypoint, around}).To(Equal([]int{50, 0}), "connections of a pod of another node to the waypoint, and around it")
	}, SpecTimeout(6*time.Minute))

	It("has no pod that is in or outside the mesh without a word", func(ctx SpecContext) {
		// One that runs is told that it is not redirected any more.
		Eventually(ctx, func() string { return annotation(ctx, "there-before") }, patience).Should(BeEmpty())
		Expect(told(ctx, namespace, "there-before")).To(MatchRegexp("NotEnrolled: no connection of this pod is redirected: node " + goes + " has no engine: Linux .* " + says))
		// One that starts waits: the plugin is in the chain, and nobody answers it.
		Eventually(ctx, func() string { return told(ctx, namespace, "there-after") }, patience).Should(ContainSubstring("no agent answers"))
		Expect(kubectl(ctx, "get", "pod", "-n", namespace, "there-after", "-o", "jsonpath={.status.phase}")).To(Equal("Pending"))
		Expect(annotation(ctx, "there-after")).To(BeEmpty())
	}, SpecTimeout(5*time.Minute))

	It("keeps the other nodes from new agents no longer than it may", func(ctx SpecContext) {
		install := []string{"install", "--timeout=25s", "--set", "image.tag=" + tag(), "--set", "logLevel=debug"}
		replaced := func(ctx context.Context) bool {
			return strings.Contains(agentOn(ctx, stays, ".spec.containers[0].args"), "--log-level=debug") &&
				agentOn(ctx, stays, ".status.containerStatuses[0].ready") == "true"
		}
		Expect(fails(ctx, install...)).To(MatchRegexp(`\n  node ` + goes + `: (.*\n)+  \d more wait for these, and go on as they are: --set maxUnavailable=2 `))
		Expect(replaced(ctx)).To(BeFalse(), "the agent of node %s was replaced, beside one that is not ready", stays)
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			Expect(fails(ctx, append(install, "--set", "maxUnavailable=2")...)).To(ContainSubstring("\n  node " + goes + ": "))
			Eventually(ctx, replaced, patience).Should(BeTrue(), "the agent of node %s is the new one", stays)
		}))
	}, SpecTimeout(6*time.Minute))

	It("comes back by itself when its kernel is", func(ctx SpecContext) {
		was := agentOn(ctx, goes, ".metadata.name")
		onNode(ctx, goes, itself)
		Eventually(ctx, func() string { return agentOn(ctx, goes, ".status.containerStatuses[0].ready") }, 2*patience).Should(Equal("true"))
		Expect(agentOn(ctx, goes, ".metadata.name")).To(Equal(was), "the pod of the agent")
		inside(ctx, namespace, "there-after")
		Eventually(ctx, func() string { return annotation(ctx, "there-before") }, patience).Should(Equal("enabled"))
		Expect(program(ctx, nil, "bin/duomesh", "status", "--kubeconfig", os.Getenv("KUBECONFIG"))).To(ContainSubstring(heading(goes)))
	}, SpecTimeout(9*time.Minute))
})
