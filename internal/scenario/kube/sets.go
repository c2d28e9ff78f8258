package kube

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// locality is a Balance that can be compared.
type locality struct {
	mode   intent.Mode
	prefer string
}

func localityOf(b scenario.Balance) locality {
	var words []string
	for _, s := range b.Prefer {
		words = append(words, string(s))
	}
	return locality{b.Mode, strings.Join(words, " ")}
}

// localities are the fields of a Service that istiod makes such a policy of.
var localities = map[locality]map[string]any{
	{}:                      nil,
	{intent.Strict, "node"}: {"internalTrafficPolicy": string(corev1.ServiceInternalTrafficPolicyLocal)},
	{intent.Failover, "network region zone"}: {
		// PreferSameZone is the same for istiod, and for Kubernetes from 1.34 on alone.
		"trafficDistribution": corev1.ServiceTrafficDistributionPreferClose,
	},
	{intent.Failover, "network region zone subzone node"}: {
		"trafficDistribution": corev1.ServiceTrafficDistributionPreferSameNode,
	},
}

// expressible reports what neither Kubernetes nor Istio can say of a service.
func expressible(s scenario.Service, unready []string, w World) error {
	if err := onePortOneTarget(s); err != nil {
		return err
	}
	if _, known := localities[localityOf(s.Balance)]; !known {
		return fmt.Errorf("%w: balance %s by %v: a Service says %s, %s or its node alone",
			scenario.ErrNotExpressible, s.Balance.Mode, s.Balance.Prefer,
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode)
	}
	if asEntry(s, w) {
		for _, p := range s.Ports {
			if p.TargetName != "" {
				return fmt.Errorf("%w: port %d: a ServiceEntry has no target ports by name", scenario.ErrNotExpressible, p.Port)
			}
		}
		if s.Balance.Mode != intent.Any || s.PublishNotReady {
			return fmt.Errorf("%w: a ServiceEntry has neither a locality nor a health policy", scenario.ErrNotExpressible)
		}
	}
	for _, e := range s.Endpoints {
		switch {
		case e.ByName:
			return fmt.Errorf("%w: endpoint %s by name: nobody answers for it", scenario.ErrNotExpressible, e.Pod)
		case byEntries(s, w) && slices.Contains(unready, e.Pod):
			return fmt.Errorf("%w: endpoint %s: a WorkloadEntry is always ready", scenario.ErrNotExpressible, e.Pod)
		case byEntries(s, w) && s.Balance.Mode != intent.Any:
			return fmt.Errorf("%w: endpoint %s: a WorkloadEntry is on no node", scenario.ErrNotExpressible, e.Pod)
		}
	}
	return nil
}

// byEntries reports whether the endpoints are WorkloadEntries, and not Pods.
func byEntries(s scenario.Service, w World) bool {
	partly := slices.ContainsFunc(s.Endpoints, func(e scenario.Endpoint) bool { return w.Pods[e.Pod].Partly })
	return weighed(s) || ownTargets(s) || partly
}

// Selects reports whether the service is one of Kubernetes that selects Pods: such a one
// is served by the cluster itself, too.
func Selects(s scenario.Service, w World) bool { return !byEntries(s, w) && !s.Headless }

// asEntry reports whether the service is a ServiceEntry.
func asEntry(s scenario.Service, w World) bool {
	return !inside(w.Services[s.Name], w.Ranges) || ownTargets(s)
}

func ownTargets(s scenario.Service) bool {
	return slices.ContainsFunc(s.Endpoints, func(e scenario.Endpoint) bool { return len(e.Ports) > 0 })
}

// entryPorts are the target ports of an entry: those that the endpoint says, by the
// name of the service's port, and the pod's own by theirs.
func entryPorts(s scenario.Service, e scenario.Endpoint, w World) map[string]any {
	ports := map[string]any{}
	for _, p := range s.Ports {
		if target := w.Pods[e.Pod].Ports[p.TargetName]; target != 0 {
			ports[p.TargetName] = int64(target)
		}
		if target := e.Ports[p.Port]; target != 0 {
			ports[portName(p)] = int64(target)
		}
	}
	return ports
}
