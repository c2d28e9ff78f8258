package main

import (
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/internal/flagwords"
)

// flags are the command line.
type flags struct {
	source         string
	name           string
	dir            string
	envoy          string
	concurrency    int
	port           uint16
	codecs         []string
	proxyPort      uint16
	hboneOnly      bool
	identify       string
	expose         []string
	drain          time.Duration
	minDrain       time.Duration
	hold           time.Duration
	maxConnections int64
	ready          string
	metrics        string
	envoyMetrics   string
	admin          string
	logLevel       string
	node           string
	locality       string
	xds            xdsFlags
	istio          istioFlags
}

func newCommand(env func(string) string, environ []string, log io.Writer) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "duomesh-waypoint [proxy waypoint] [--source file:PATH|xds:ADDRESS]",
		Short: "A waypoint pod's entry process: a stock Envoy, and what configures it",
		Long: `A waypoint pod's entry process: it starts a stock Envoy, gives it its configuration,
from a file or from an istiod, and is ready when connections may be handed to it.

It stands in for Istio's own waypoint image: "proxy waypoint" with the flags of
istiod's template is accepted, and what of them has no effect here is said at start.

SIGTERM drains Envoy before it ends. Nothing here needs a privilege.

Environment: ENVOY_BIN (for --envoy); DUOMESH_CODEC (for --codec); CA_ADDR or XDS_ADDRESS (for --source xds:…);
POD_NAME, POD_NAMESPACE, INSTANCE_IP, SERVICE_ACCOUNT and ISTIO_META_* (who asks istiod);
ISTIO_CPU_LIMIT (for --concurrency); PROXY_CONFIG (its concurrency and
terminationDrainDuration for --concurrency and --drain; what else has no effect here is
said at start). TRUST_DOMAIN has none: istiod's CA says it.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || (len(args) == 2 && args[0] == "proxy" && args[1] == "waypoint") {
				return nil
			}
			return usagef("unknown arguments %q: see duomesh-waypoint --help", strings.Join(args, " "))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.start(cmd.Context(), surroundings{env, environ, cmd.Flags().Changed, net.InterfaceAddrs}, log)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagwords.Plain(err)} })
	f.define(cmd, env)
	return cmd
}

// surroundings are what the command line does not say.
type surroundings struct {
	env     func(string) string
	environ []string
	given   func(flag string) bool
	// addresses are those of the pod's interfaces; nil: none are known.
	addresses func() ([]net.Addr, error)
}

func (f *flags) define(cmd *cobra.Command, env func(string) string) {
	or := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	set := cmd.Flags()
	set.StringVar(&f.source, "source", "", "where the configuration comes from: `file:PATH|xds:ADDRESS`, an istiod's host and port")
	set.StringVar(&f.name, "name", "", "`NAMESPACE/NAME` of the waypoint, as the file has it; with an istiod, of its Gateway")
	set.StringVar(&f.dir, "dir", "", "`DIR` for sockets and Envoy's bootstrap; a temporary one when not given")
	set.StringVar(&f.envoy, "envoy", env("ENVOY_BIN"), "`PATH` of Envoy; the envoy of PATH when not given")
	set.IntVar(&f.concurrency, "concurrency", 0, "`N` workers of Envoy; by ISTIO_CPU_LIMIT, or one for each processor, when not given")
	set.Uint16Var(&f.port, "hand-off-port", l7.HandOffPort, "`PORT` that connections are handed to")
	set.StringSliceVar(&f.codecs, "codec", strings.Split(or(env("DUOMESH_CODEC"), string(intent.OriginalDst)), ","), "`CODEC` by which connections are handed over: original-dst, proxy-v2, or both; DUOMESH_CODEC when not given")
	set.Uint16Var(&f.proxyPort, "proxy-port", intent.ProxyV2.Port(), "`PORT` that connections with a PROXY header come to")
	set.BoolVar(&f.hboneOnly, "hbone-only", false, "serve HBONE clients alone: no engine hands connections over here")
	set.StringVar(&f.identify, "identity", identityNone, "who a client is that was handed over: `none|address`, where address trusts the source's address")
	set.StringSliceVar(&f.expose, "expose", nil, "`PORT=NAMESPACE/NAME:PORT`: a port of its own that leads to a service, for those who dial the waypoint; with a file only")
	set.DurationVar(&f.drain, "drain", l7.DefaultDrain, "`TIME` that connections have to end after SIGTERM")
	set.DurationVar(&f.minDrain, "min-drain", l7.DefaultMinDrain, "`TIME` of --drain for which it goes on even without connections: clients are still sent here")
	set.DurationVar(&f.hold, "hold", l7.DefaultHold, "`TIME` for which destinations that left the configuration are served yet")
	set.Int64Var(&f.maxConnections, "max-connections", 0, "at most `N` connections; what the limit of open files allows when not given")
	set.StringVar(&f.ready, "ready", l7.ReadyAddress, "`ADDRESS` of /healthz/ready; empty: none")
	set.StringVar(&f.metrics, "metrics", l7.MetricsAddress, "`ADDRESS` of /stats/prometheus and /metrics; empty: none")
	set.StringVar(&f.envoyMetrics, "envoy-metrics", l7.EnvoyMetrics, "`ADDRESS` of Envoy's own /stats/prometheus; empty: none")
	set.StringVar(&f.admin, "admin", l7.AdminAddress, "`ADDRESS` of the admin API on the loopback, or unix:PATH; empty: none")
	set.StringVar(&f.logLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	set.StringVar(&f.node, "node", or(env("ISTIO_META_NODE_NAME"), env("NODE_NAME")), "`NAME` of the node")
	set.StringVar(&f.locality, "locality", "", "`REGION[/ZONE[/SUBZONE]]` of the node")
	f.xds.define(set)
	f.istio.define(set)
}
