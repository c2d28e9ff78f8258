package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// flags are the command line.
type flags struct {
	source   string
	roots    string
	token    string
	plain    bool
	cgroup   string
	bpffs    string
	node     string
	locality string
	enrol    string
	state    string
	admin    string
	metrics  string
	logLevel string
	remove   bool
	handoff  string
	policy   string
	resolv   string
	force    bool
	reset    bool
	limits   limitFlags
	kmesh    kmeshFlags
	kube     kubeFlags
}

func newCommand(env func(string) string, log io.Writer) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "duomesh-agent --source file:PATH|xds:ADDRESS",
		Short: "The node agent of duomesh",
		Long: `The node agent of duomesh: it brings what a source declares to the kernel of its
node, and takes enrolments of pods on a socket that only root reaches.

SIGTERM ends the agent and leaves the engine working: connections are redirected
by the state that it had, and the next agent takes over. --remove takes the engine
and all that it pinned away.

Environment: NODE_NAME (for --node), CLUSTER_ID and ISTIO_META_NETWORK (where the
node stands); XDS_ADDRESS (for --source xds:ADDRESS); POD_NAME, POD_NAMESPACE,
INSTANCE_IP, SERVICE_ACCOUNT and MESH_ID (who asks istiod).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown argument %q: see duomesh-agent --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return start(cmd.Context(), f, env, log)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{kmeshHint(err)} })
	f.define(cmd, env)
	return cmd
}

func (f *flags) define(cmd *cobra.Command, env func(string) string) {
	set := cmd.Flags()
	set.StringVar(&f.source, "source", "", "where the desired state comes from: `file:PATH|xds:ADDRESS`, an istiod's host and port")
	set.StringVar(&f.roots, "xds-roots", "/var/run/secrets/istio/root-cert.pem", "PEM `FILE` of the certificates that sign istiod's")
	set.StringVar(&f.token, "xds-token", "/var/run/secrets/tokens/istio-token", "`FILE` with the ServiceAccount token that istiod is shown")
	set.BoolVar(&f.plain, "xds-plaintext", false, "speak to istiod without TLS and token: for tests on one machine")
	set.StringVar(&f.handoff, "handoff", "", "`CODEC` in which connections are handed to istiod's waypoints: original-dst (when not given), proxy-v2 or kmesh-tlv; with --kubernetes the annotation duomesh.io/handoff of a waypoint's Gateway comes first")
	set.StringVar(&f.policy, "unenforced-policy", policyWarn, "what becomes of connections to workloads that a policy of istiod names, since none is enforced: `warn|refuse`")
	set.StringVar(&f.resolv, "resolv-conf", "/etc/resolv.conf", "`FILE` with the name servers for workloads of istiod that are known by name only")
	set.StringVar(&f.cgroup, "cgroup", "", "`DIR` of the node in the cgroup v2 hierarchy; the whole of it when not given; \"host\" in a container: that of the machine's first process")
	set.StringVar(&f.bpffs, "bpffs", "/sys/fs/bpf", "`DIR` in a BPF file system where the engine is pinned; empty: it ends with the agent")
	set.StringVar(&f.node, "node", env("NODE_NAME"), "`NAME` of the node; the host's when not given")
	set.StringVar(&f.locality, "locality", "", "`REGION[/ZONE[/SUBZONE]]` of the node")
	set.StringVar(&f.enrol, "enrol-socket", api.EnrolSocket, "`PATH` of the socket for enrolments; its directory is made for root alone")
	set.StringVar(&f.state, "state", "", "`FILE` that keeps enrolments for the next agent; beside the socket when not given")
	set.StringVar(&f.admin, "admin", api.AdminAddress, "`ADDRESS` of the admin API on the loopback; empty: none")
	set.StringVar(&f.metrics, "metrics", ":15020", "`ADDRESS` of /metrics and /status/metric; empty: none")
	set.StringVar(&f.logLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	set.BoolVar(&f.force, "force", false, "go on beside programs of others that change where connections go")
	set.BoolVar(&f.reset, "reset-existing", false, "end the connections that pods have when they are enrolled: they are not redirected, and else stay")
	set.BoolVar(&f.remove, "remove", false, "end the redirection, take away what was pinned, and stop")
	f.limits.define(set)
	f.kmesh.define(set)
	f.kube.define(set, env)
}

// The values of --unenforced-policy.
const (
	policyWarn   = "warn"
	policyRefuse = "refuse"
)

// place is where the node stands.
func (f flags) place(env func(string) string) (intent.Place, error) {
	p := intent.Place{Node: f.node, Network: env("ISTIO_META_NETWORK"), Cluster: env("CLUSTER_ID")}
	if p.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return p, fmt.Errorf("name of the node: %w", err)
		}
		p.Node = name
	}
	parts := strings.Split(f.locality, "/")
	if len(parts) > 3 || f.locality != "" && slices.Contains(parts, "") {
		return p, usagef("--locality %s: want REGION[/ZONE[/SUBZONE]]", f.locality)
	}
	for i, to := range []*string{&p.Locality.Region, &p.Locality.Zone, &p.Locality.Subzone}[:len(parts)] {
		*to = parts[i]
	}
	return p, nil
}

// openCgroup opens the node's directory; the caller closes it.
func (f flags) openCgroup() (*os.File, error) {
	dir, err := f.cgroup, error(nil)
	switch dir {
	case "":
		dir, err = kernel.Cgroup2()
	case "host":
		dir, err = kernel.HostCgroup2()
	}
	if err != nil {
		return nil, usageError{err}
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, usagef("--cgroup: %w", err)
	}
	return file, nil
}

func (f flags) stateFile() string {
	if f.state != "" {
		return f.state
	}
	return filepath.Join(filepath.Dir(f.enrol), "enrolled.json")
}
