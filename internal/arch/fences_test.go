package arch

// A floor is one row of the table in docs/architecture.md. Patterns are relative
// to the module; one that ends in /... takes in the packages below it. The row
// with the longest pattern that matches a package is its own.
type floor struct {
	level   int
	pattern string
	// may lists what a package of this row may import of ours, beside packages
	// of its own row: rows of lower floors. everything stands for all of them.
	may []string
	// never maps what must not be among its dependencies, however far down, to
	// the reason. Ours are relative to the module, others are import paths.
	never map[string]string
	// neverDirect is never for direct imports alone: for the standard library,
	// where package fmt itself needs package os.
	neverDirect map[string]string
}

const everything = "*"

const (
	whyJudge      = "the judge may not know the judged"
	whyProduct    = "production code knows no tests"
	whyPure       = "intent is plain values: no I/O"
	whyStranger   = "a verdict may not depend on the mesh that it is about"
	whyLeft       = "what others left is told without an engine"
	whyWorld      = "a scenario's runner is handed a World and knows none"
	whyBaseline   = "a baseline may not stand on the product it is compared with"
	whyImage      = "on Kubernetes the agent comes as an image"
	whyMachines   = "what runs in a machine is built and started, not linked"
	whySuites     = "suites call the library, not the other way round"
	whyPlugin     = "the plugin asks the agent and knows no engine"
	whyDoor       = "who enrols comes through the enrolment socket"
	whyProductBin = "a production binary links nothing of the harness"
)

var floors = []floor{
	{level: 0, pattern: "dataplane/intent", neverDirect: map[string]string{
		"net": whyPure, "net/http": whyPure, "os": whyPure, "os/exec": whyPure, "io/fs": whyPure, "syscall": whyPure,
	}},
	{level: 0, pattern: "dataplane/handoff"},
	{level: 0, pattern: "internal/report/..."},
	{level: 0, pattern: "internal/testsum/..."},
	{level: 0, pattern: "internal/arch"},
	{level: 0, pattern: "internal/strictyaml"},
	{level: 0, pattern: "internal/flagwords"},

	{level: 1, pattern: "internal/traffic/...", may: []string{"internal/report/..."}},
	{level: 1, pattern: "internal/kernel/..."},
	{level: 1, pattern: "internal/istiod/..."},
	{level: 2, pattern: "internal/kubetest", may: []string{"internal/kernel/..."}},
	{level: 1, pattern: "internal/images/..."},
	{level: 1, pattern: "internal/cluster"},
	{level: 1, pattern: "deploy"},

	{
		level: 2, pattern: "dataplane/l4/...",
		may:   []string{"dataplane/intent", "dataplane/handoff", "internal/kernel/..."},
		never: map[string]string{"netsim/...": whyProduct, "internal/probe/...": whyProduct},
	},
	{level: 2, pattern: "dataplane/l7/...", may: []string{"dataplane/intent", "dataplane/handoff", "internal/istiod/..."}},
	{level: 2, pattern: "dataplane/source/...", may: []string{"dataplane/intent", "dataplane/handoff", "internal/istiod/...", "internal/strictyaml"}},
	{
		level: 2, pattern: "internal/probe/...",
		may:   []string{"internal/kernel/..."},
		never: map[string]string{"dataplane/...": whyJudge, "netsim/...": whyJudge},
	},
	{
		level: 3, pattern: "internal/trace",
		may:   []string{"internal/kernel/...", "internal/probe/..."},
		never: map[string]string{"dataplane/...": whyJudge, "netsim/...": whyJudge},
	},
	{
		level: 2, pattern: "internal/kmesh",
		may:   []string{"internal/kernel/..."},
		never: map[string]string{"dataplane/...": whyLeft},
	},
	{level: 2, pattern: "internal/scenario/...", may: []string{"dataplane/intent", "internal/report/...", "internal/traffic/...", "internal/strictyaml", "internal/cluster"}},

	{
		level: 3, pattern: "dataplane",
		may:   []string{"dataplane/intent", "dataplane/handoff", "dataplane/l4/...", "dataplane/l7/..."},
		never: map[string]string{"internal/probe/...": whyProduct, "internal/scenario/...": whyProduct, "netsim/...": whyProduct},
	},
	{level: 2, pattern: "dataplane/agent/api", may: []string{"internal/kernel/..."}},
	{
		level: 3, pattern: "dataplane/agent/admin",
		may:   []string{"dataplane/agent/api", "dataplane/intent", "dataplane/l4/..."},
		never: map[string]string{"internal/probe/...": whyProduct, "internal/scenario/...": whyProduct, "netsim/...": whyProduct},
	},
	{
		level: 3, pattern: "internal/ambient/...",
		may:   []string{"dataplane/intent", "internal/kernel/...", "internal/istiod/...", "internal/images/..."},
		never: map[string]string{"dataplane": whyBaseline, "dataplane/l4/...": whyBaseline, "dataplane/l7/...": whyBaseline},
	},
	{
		level: 3, pattern: "internal/controlplane/...",
		may:   []string{"dataplane/intent", "internal/kernel/...", "internal/istiod/...", "internal/cluster"},
		never: map[string]string{"dataplane": whyBaseline, "dataplane/l4/...": whyBaseline, "dataplane/l7/...": whyBaseline},
	},

	{
		level: 4, pattern: "dataplane/agent/...",
		may: []string{
			"dataplane", "dataplane/intent", "dataplane/handoff", "dataplane/source/...", "dataplane/agent/api",
			"dataplane/agent/admin", "internal/kernel/...",
		},
		never: map[string]string{"internal/probe/...": whyProduct, "internal/scenario/...": whyProduct, "netsim/...": whyProduct},
	},
	{
		level: 4, pattern: "dataplane/cni/...",
		may:   []string{"dataplane/agent/api", "internal/kernel/..."},
		never: map[string]string{"dataplane/l4/...": whyPlugin, "internal/probe/...": whyProduct, "internal/scenario/...": whyProduct, "netsim/...": whyProduct},
	},
	{
		level: 4, pattern: "dataplane/kube/...",
		may: []string{"dataplane/agent/api", "internal/kernel/..."},
		never: map[string]string{
			"dataplane/l4/...": whyDoor, "internal/probe/...": whyProduct, "internal/scenario/...": whyProduct, "netsim/...": whyProduct,
		},
	},
	{
		level: 4, pattern: "netsim/...",
		may: []string{
			"dataplane", "dataplane/intent", "dataplane/handoff", "dataplane/l7/...", "dataplane/source/...",
			"dataplane/agent/api", "dataplane/agent/admin", "internal/scenario/...", "internal/traffic/...",
			"internal/kernel/...", "internal/controlplane/...", "internal/strictyaml",
		},
		never: map[string]string{"internal/probe/...": whyJudge},
	},
	{
		level: 4, pattern: "internal/verify/...",
		may: []string{"dataplane/intent", "internal/scenario/...", "internal/traffic/...", "internal/probe/...", "internal/report/..."},
		never: map[string]string{
			"dataplane": whyStranger, "dataplane/l4/...": whyStranger, "dataplane/l7/...": whyStranger,
			"dataplane/source/...": whyStranger, "dataplane/agent/...": whyStranger, "dataplane/cni/...": whyStranger,
			"netsim/...": whyWorld, "kind/...": whyWorld, "github.com/onsi/ginkgo/v2/...": whySuites,
		},
	},
	{
		level: 4, pattern: "internal/vmtest/...",
		may: []string{"internal/scenario/...", "internal/report/...", "internal/testsum/...", "internal/kernel/..."},
		never: map[string]string{
			"dataplane": whyMachines, "dataplane/l4/...": whyMachines, "internal/probe/...": whyMachines,
			"internal/trace": whyMachines, "netsim/...": whyMachines,
		},
	},
	{
		level: 4, pattern: "kind/...",
		may: []string{
			"dataplane/intent", "dataplane/agent/api", "dataplane/l7/...", "internal/scenario/...", "internal/traffic/...",
			"internal/kernel/...", "internal/cluster",
		},
		never: map[string]string{"dataplane/l4/...": whyImage},
	},

	{level: 5, pattern: "bench/...", may: []string{everything}},
	{level: 5, pattern: "e2e/...", may: []string{everything}},
	{level: 6, pattern: "cmd/duomesh/...", may: []string{everything}},
	productBinary("cmd/duomesh-agent/..."),
	productBinary("cmd/duomesh-waypoint/..."),
	productBinary("cmd/duomesh-cni/..."),
}

func productBinary(pattern string) floor {
	f := floor{level: 6, pattern: pattern, may: []string{everything}, never: map[string]string{}}
	for _, harness := range []string{
		"netsim/...", "kind/...", "bench/...", "e2e/...", "internal/probe/...", "internal/scenario/...",
		"internal/verify/...", "internal/ambient/...", "internal/controlplane/...", "internal/kubetest",
	} {
		f.never[harness] = whyProductBin
	}
	return f
}
