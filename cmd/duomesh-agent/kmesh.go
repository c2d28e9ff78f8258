package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/duomesh/duomesh/internal/flagwords"
)

// kmeshFlags are flags of Kmesh's daemon that its manifests set: accepted when
// they ask for what this agent does, refused by name otherwise.
type kmeshFlags struct {
	mode   string
	bypass bool
	bpfLog bool
}

func (k *kmeshFlags) define(set *pflag.FlagSet) {
	set.StringVar(&k.mode, "mode", "dual-engine", "as Kmesh's: dual-engine is the only one")
	set.BoolVar(&k.bypass, "enable-bypass", false, "as Kmesh's: false is the only one")
	set.BoolVar(&k.bpfLog, "enable-bpf-log", false, "as Kmesh's: the same as --log-level debug")
}

// check refuses what this agent does not do.
func (k *kmeshFlags) check() error {
	if k.mode != "dual-engine" {
		return usagef("--mode %s: this agent has dual-engine only", k.mode)
	}
	if k.bypass {
		return usagef("--enable-bypass: not in this agent: set the label istio.io/dataplane-mode=none on pods that are to be left alone")
	}
	return nil
}

// instead maps other flags of Kmesh's daemon to what to use.
var instead = map[string]string{
	"bpf-fs-path":           "use --bpffs",
	"cgroup2-path":          "use --cgroup; the agent uses the host's hierarchy and mounts none",
	"enable-mda":            "there is no sockmap acceleration",
	"monitoring":            "metrics are always served, see --metrics",
	"periodic-report":       "metrics are always served, see --metrics",
	"profiling":             "use perf and bpftool prog profile",
	"enable-ipsec":          "encryption between nodes is not this agent's",
	"enable-secret-manager": "certificates are the waypoint's own",
	"cni-etc-path":          "use --install-cni and --cni-net-dir",
	"conflist-name":         "--install-cni finds the chain that the runtime uses",
	"plugin-cni-chained":    "the plugin of --install-cni is always chained",
}

// kmeshHint adds what to use instead of a flag that only Kmesh has.
func kmeshHint(err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if hint, ok := instead[name]; unknown && ok {
		return fmt.Errorf("--%s is a flag of Kmesh that this agent does not have: %s", name, hint)
	}
	return fmt.Errorf("%w: see duomesh-agent --help", flagwords.Plain(err))
}
