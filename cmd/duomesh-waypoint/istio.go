package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"
)

// istioFlags are those with which istiod's waypoint template calls its image.
type istioFlags struct {
	domain            string
	serviceCluster    string
	proxyLogLevel     string
	proxyComponentLog string
	logOutputLevel    string
	logAsJSON         bool
	outlierLogPath    string
	stsPort           int
	trustDomain       string
}

func (f *istioFlags) define(set *pflag.FlagSet) {
	set.StringVar(&f.domain, "domain", "", "`NAMESPACE.svc.DOMAIN` of the pod, as istiod's template has it")
	set.StringVar(&f.serviceCluster, "serviceCluster", "", "`NAME` of Envoy's service cluster, as istiod's template has it")
	set.StringVar(&f.proxyLogLevel, "proxyLogLevel", "warning", "`LEVEL` of Envoy's log")
	set.StringVar(&f.proxyComponentLog, "proxyComponentLogLevel", "misc:error", "`COMPONENT:LEVEL,…` of Envoy's log")
	set.StringVar(&f.logOutputLevel, "log_output_level", "", "`SCOPE:LEVEL,…` as istiod's template has it; the level of default is ours")
	set.BoolVar(&f.logAsJSON, "log_as_json", false, "write the log as JSON")
	set.StringVar(&f.outlierLogPath, "outlierLogPath", "", "accepted, has no effect")
	set.IntVar(&f.stsPort, "stsPort", 0, "accepted, has no effect")
	set.StringVar(&f.trustDomain, "trust-domain", "", "accepted, has no effect: istiod's CA says it")
}

// withoutEffect are flags of istiod's template that this program takes and does not
// carry out.
var withoutEffect = []string{"outlierLogPath", "stsPort", "trust-domain"}

// tell says what is ignored.
func (f istioFlags) tell(given func(string) bool, log *slog.Logger) {
	for _, name := range withoutEffect {
		if given(name) {
			log.Warn("this flag has no effect here", "flag", "--"+name)
		}
	}
}

// level is our own log level in Istio's words: that of scope default, or of all.
func (f istioFlags) level() (string, error) {
	for _, one := range strings.Split(f.logOutputLevel, ",") {
		scope, level, found := strings.Cut(one, ":")
		if !found {
			scope, level = "default", scope
		}
		if scope != "default" && scope != "all" {
			continue
		}
		switch level {
		case "":
		case "debug", "info", "warn", "error":
			return level, nil
		case "none", "fatal":
			return "error", nil
		default:
			return "", fmt.Errorf("--log_output_level %s: level %q is none of debug, info, warn, error, fatal, none", f.logOutputLevel, level)
		}
	}
	return "", nil
}

// clusterDomain cuts the cluster's domain out of NAMESPACE.svc.DOMAIN.
func (f istioFlags) clusterDomain() string {
	if _, domain, found := strings.Cut(f.domain, ".svc."); found {
		return domain
	}
	return ""
}
