package vmtest

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// module is the import path of this module.
const module = "github.com/duomesh/duomesh"

// program is something of this module that runs in a machine.
type program struct {
	// name is the run's name.
	name string
	// pkg is relative to the module. test: its test binary, not its command.
	pkg  string
	test bool
	args []string
	// scenarios are those that `duomesh verify` is asked for.
	scenarios []string
	// run chooses tests where not everything is run; empty is all.
	run string
	// env has what makes tests smaller where not everything is run.
	env     []string
	timeout time.Duration
}

// The runs that are read in another way than tests are.
const (
	doctorRun = "doctor"
	verifyRun = "scenarios"
	// oneOfEachRun is for kernels that have no time for all scenarios.
	oneOfEachRun = "one scenario of each family"
	// oddRun and evenRun are for two kernels that share the scenarios: those at odd
	// and those at even places of the list.
	oddRun  = "scenarios at odd places"
	evenRun = "scenarios at even places"
	// briefRun is for kernels that have no time for all of dataplane/l4.
	l4Run    = "dataplane/l4"
	briefRun = "dataplane/l4 in brief"
)

// probeRun is the one that makes the judge's providers fire.
const probeRun = "internal/probe"

const command = "cmd/duomesh"

// beside are commands that others start from their own directory.
var beside = []program{
	{name: "agent", pkg: "cmd/duomesh-agent"},
	{name: "traffic", pkg: "internal/traffic/cmd/duomesh-traffic"},
}

// plan is what runs in each machine, in this order. full also runs what takes
// an emulated machine long. The times are bounds for a machine that gets a tenth of
// a processor: what hangs ends, what is slow does not.
func plan(full bool) []program {
	runs := []program{
		{name: doctorRun, pkg: command, args: []string{"doctor", "-o", "json"}, timeout: 10 * time.Minute},
		{name: kernelRun, pkg: "internal/kernel", test: true, timeout: 5 * time.Minute},
		{
			name: l4Run, pkg: l4Run, test: true, timeout: 15 * time.Minute,
			// What the kernel decides and does; what is refused before it is asked is
			// the same on all.
			run: "^Test(Decision|PeerThat|Protocols$|Getpeername|Reconnect|NonBlocking|EnrolAndLeave|PodsThat|TakeOverKeeps|" +
				"Grace|Datagrams$|Choice|FlowWhenTheService|FlowsOfAnEarlier|TwoAddresses|UDPReconnect|HidePeer|Connected|" +
				"Replacement|FlipsWithout|DeletingFirst|KernelAgrees|KernelThat|" +
				"ServeAndStop|HandoffToAnOlder|HandoffOfReused|HandoffOfMPTCP|ConnectionsWithoutHandoff|" +
				"HeadersOfSocketsThat|HeadersWithoutRoom)",
			// Few, and still each exit, each change and each reuse of a map's memory.
			env: []string{"DUOMESH_SNAPSHOTS=240", "DUOMESH_DATAGRAMS=2000", "DUOMESH_HANDOFFS=20"},
		},
		{
			name: probeRun, pkg: "internal/probe", test: true, timeout: 15 * time.Minute,
			run: "^Test(Providers|Rewritten|Endings|Reused|Wire|UDP|Ladder|Asked|Packets)",
		},
		{name: "internal/trace", pkg: "internal/trace", test: true, timeout: 15 * time.Minute},
		{name: "duomesh probe", pkg: command, test: true, run: "^TestProbe(JSON|Drops|Stack)$", timeout: 15 * time.Minute},
		{name: verifyRun, pkg: command, args: verifyArgs, scenarios: single(), timeout: 20 * time.Minute},
	}
	if full {
		for i := range runs {
			runs[i].run, runs[i].env, runs[i].timeout = "", nil, 30*time.Minute
		}
	}
	return runs
}

var verifyArgs = []string{"verify", "--single", "--seed", "1", "-o", "json", "--evidence", ""}

// single are the scenarios that need nothing but this module: not those of the DNAT
// baseline, which are iptables' work and not the mesh's, nor those with a waypoint,
// which is an Envoy.
func single() []string {
	var names []string
	for _, s := range scenario.All() {
		if s.Topology.Mesh != scenario.DNAT && !hasWaypoint(s.Topology) {
			names = append(names, s.Name)
		}
	}
	return names
}

// oneOfEach is the first scenario of each family, which is what stands before the first
// slash of a name.
func oneOfEach(names []string) []string {
	var first []string
	seen := map[string]bool{}
	for _, name := range names {
		family, _, _ := strings.Cut(name, "/")
		if !seen[family] {
			first = append(first, name)
		}
		seen[family] = true
	}
	return first
}

// everyOther are the names at every other place, from the given one on.
func everyOther(names []string, from int) []string {
	var some []string
	for i := from; i < len(names); i += 2 {
		some = append(some, names[i])
	}
	return some
}

func hasWaypoint(t scenario.Topology) bool {
	return slices.ContainsFunc(t.Nodes, func(n scenario.Node) bool {
		return slices.ContainsFunc(n.Pods, func(p scenario.Pod) bool { return p.Waypoint })
	})
}

// judgedBy begins the names of the runs that judge a scenario twice.
const judgedBy = "judged also by "

// shares are the runs that stand for a greater one where a kernel names them.
func shares() []program {
	scenarios := func(name string, some []string) program {
		return program{name: name, pkg: command, args: verifyArgs, scenarios: some, timeout: 15 * time.Minute}
	}
	return []program{
		{
			name: briefRun, pkg: l4Run, test: true, timeout: 15 * time.Minute,
			// Each line of the decision table, and what is done in another way where the
			// kernel lacks something.
			run: "^Test(DecisionTable|Protocols$|Getpeername|Reconnect|EnrolAndLeave|TakeOverKeeps|" +
				"Datagrams$|UDPReconnect|Connected|KernelThat|ServeAndStop|HandoffToAnOlder)",
			env: []string{"DUOMESH_DATAGRAMS=2000"},
		},
		scenarios(oneOfEachRun, oneOfEach(single())),
		scenarios(evenRun, everyOther(single(), 0)),
		scenarios(oddRun, everyOther(single(), 1)),
	}
}

// more are the runs of one kernel beside the plan: the shares that it names; and one scenario under two judges, of
// which the second has the providers at functions of the kernel that this kernel promises.
func more(k Kernel) []program {
	var runs []program
	runs = append(runs, named(shares(), k.Runs)...)
	for _, way := range []string{kernel.KprobeMulti.Name, kernel.Kprobe.Name, kernel.Fentry.Name} {
		if !k.Promised(way) || !k.Promised(kernel.BTF.Name) {
			continue
		}
		runs = append(runs, program{
			name: judgedBy + way, pkg: command, timeout: 5 * time.Minute,
			args: append(slices.Clone(verifyArgs),
				"--second", way+"/tcp_set_state", "--second", way+"/__inet_stream_connect"),
			scenarios: []string{"clusterip/weight/90-10"},
		})
	}
	return runs
}

// binary is the program's file, on the host below a directory and in the machine
// below guest.TestDir.
func (p program) binary() string {
	if p.test {
		return path.Base(p.pkg) + ".test"
	}
	return path.Base(p.pkg)
}

func (p program) guestRun() guest.Run {
	argv := []string{guest.TestDir + "/" + p.binary()}
	if p.test {
		argv = append(argv, "-test.v=test2json", "-test.count=1", "-test.timeout="+p.timeout.String())
		if p.run != "" {
			argv = append(argv, "-test.run="+p.run)
		}
	}
	return guest.Run{
		Name: p.name, Argv: slices.Concat(argv, p.args, p.scenarios),
		// Memory is there for less collecting of garbage.
		Env: append([]string{"GOGC=400"}, p.env...),
		// A test binary that is late says where it hangs, before it is ended.
		Timeout: p.timeout + 10*time.Second,
	}
}
