package ambient

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/goccy/go-yaml"
)

// What is the same for every simulated mesh.
const (
	// Namespace is the Kubernetes namespace that all pods and services are in.
	Namespace = "default"
	// TrustDomain is that of all identities.
	TrustDomain = "cluster.local"
	clusterID   = "cluster1"
)

// Protocol is how a captured pod is reached.
type Protocol string

// The protocols: HBONE is mutual TLS, TCP is plaintext through the same proxies.
const (
	HBONE Protocol = "HBONE"
	TCP   Protocol = "TCP"
)

// Pod is a simulated pod.
type Pod struct {
	Name, Node     string
	ServiceAccount string
	Address        netip.Addr
	// Netns is the caller's, open while the mesh is.
	Netns *os.File
}

// UID names the pod as Istio's agent does.
func (p Pod) UID() string { return fmt.Sprintf("%s//v1/Pod/%s/%s", clusterID, Namespace, p.Name) }

// Identity is the SPIFFE name of the pod.
func (p Pod) Identity() string { return Identity(Namespace, p.ServiceAccount) }

// Identity is the SPIFFE name of a service account.
func Identity(namespace, account string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", TrustDomain, namespace, account)
}

// Service is a virtual address before one pod.
type Service struct {
	Name string
	VIP  netip.Addr
	// Port is asked for, Target is where the pod listens.
	Port, Target uint16
	// Pod is the name of the one that serves.
	Pod string
}

func (s Service) host() string { return fmt.Sprintf("%s.%s.svc.cluster.local", s.Name, Namespace) }

// Workloads is ztunnel's local file of workloads (LOCAL_XDS_PATH); it rejects
// keys that it does not know.
type Workloads struct {
	Workloads []Workload     `yaml:"workloads"`
	Services  []LocalService `yaml:"services"`
}

// Workload is one pod in it.
type Workload struct {
	UID               string                       `yaml:"uid"`
	Name              string                       `yaml:"name"`
	Namespace         string                       `yaml:"namespace"`
	ServiceAccount    string                       `yaml:"serviceAccount"`
	TrustDomain       string                       `yaml:"trustDomain"`
	WorkloadIPs       []string                     `yaml:"workloadIps"`
	Protocol          Protocol                     `yaml:"protocol"`
	Node              string                       `yaml:"node"`
	Network           string                       `yaml:"network"`
	ClusterID         string                       `yaml:"clusterId"`
	WorkloadName      string                       `yaml:"workloadName"`
	WorkloadType      string                       `yaml:"workloadType"`
	CanonicalName     string                       `yaml:"canonicalName"`
	CanonicalRevision string                       `yaml:"canonicalRevision"`
	Services          map[string]map[uint16]uint16 `yaml:"services"`
}

// LocalService is one service in it.
type LocalService struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace"`
	Hostname  string            `yaml:"hostname"`
	VIPs      []string          `yaml:"vips"`
	Ports     map[uint16]uint16 `yaml:"ports"`
	Canonical bool              `yaml:"canonical"`
	// Waypoint is where connections to the service go first; nil: to its pods.
	Waypoint *Gateway `yaml:"waypoint,omitempty"`
}

// Gateway is a waypoint as a service names it.
type Gateway struct {
	// Destination is "network/address".
	Destination string `yaml:"destination"`
	Port        uint16 `yaml:"hboneMtlsPort"`
}

// workloads renders the file. A waypoint is a workload as the pods are, and every
// service has it.
func workloads(pods []Pod, services []Service, protocol Protocol, waypoint *Pod) ([]byte, error) {
	var all Workloads
	var gateway *Gateway
	if waypoint != nil {
		pods = append(slices.Clone(pods), *waypoint)
		gateway = &Gateway{Destination: "/" + waypoint.Address.String(), Port: HBONEPort}
	}
	for _, p := range pods {
		w := Workload{
			UID: p.UID(), Name: p.Name, Namespace: Namespace, ServiceAccount: p.ServiceAccount, TrustDomain: TrustDomain,
			WorkloadIPs: []string{p.Address.String()}, Protocol: protocol, Node: p.Node, ClusterID: clusterID,
			WorkloadName: p.Name, WorkloadType: "pod", CanonicalName: p.Name, CanonicalRevision: "v1",
			Services: map[string]map[uint16]uint16{},
		}
		for _, s := range services {
			if s.Pod == p.Name {
				w.Services[Namespace+"/"+s.host()] = map[uint16]uint16{s.Port: s.Target}
			}
		}
		all.Workloads = append(all.Workloads, w)
	}
	for _, s := range services {
		all.Services = append(all.Services, LocalService{
			Name: s.Name, Namespace: Namespace, Hostname: s.host(), VIPs: []string{"/" + s.VIP.String()},
			Ports: map[uint16]uint16{s.Port: s.Target}, Canonical: true, Waypoint: gateway,
		})
	}
	b, err := yaml.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("render workloads: %w", err)
	}
	return b, nil
}
