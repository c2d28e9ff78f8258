package kmesh

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What users of Kmesh have in their manifests, scripts and dashboards, by its main branch
// of August 2026.
var surface = map[string]string{
	"flags of kmesh-daemon": `--bpf-fs-path --cgroup2-path --mode --enable-mda --monitoring --periodic-report --profiling
		--enable-ipsec --enable-bypass --enable-bpf-log --cni-etc-path --conflist-name --plugin-cni-chained --enable-secret-manager`,
	"environment": `XDS_ADDRESS CLUSTER_ID INSTANCE_IP POD_NAME POD_NAMESPACE NODE_NAME SERVICE_ACCOUNT MESH_ID ISTIO_META_NETWORK
		KMESH_ENABLE_DNS_PROXY DNS_FORWARD_PARALLEL CLUSTER_DOMAIN KUBERNETES_CLUSTER_DOMAIN CA_ADDRESS SECRET_TTL
		WORKLOAD_RSA_KEY_SIZE PKCS8_KEY ECC_SIGNATURE_ALGORITHM ECC_CURVE KMESH_WAYPOINT_IMAGE`,
	"values of the chart": `deploy.kmesh.env.xdsAddress deploy.kmesh.containers.kmeshDaemonArgs deploy.kmesh.image deploy.kmesh.resources
		kubernetesClusterDomain envoyFilter.useLegacyFormat features.dnsProxy.enabled`,
	"labels and annotations": `istio.io/dataplane-mode kmesh.net/redirection kmesh.net/bypass istio.io/use-waypoint istio.io/waypoint-for
		sidecar.istio.io/proxyImage`,
	"paths": `/sys/fs/bpf/bpf_kmesh_workload /mnt/kmesh_cgroup2 /mnt/workload_hash_name.yaml /mnt/kmesh_mapspecs /opt/cni/bin/kmesh-cni
		/etc/cni/net.d/kmesh-cni-kubeconfig`,
	"admin API": `15019 15200 15020 929 930 /version /debug/config_dump /debug/config_dump/bpf /debug/ready /debug/loggers /accesslog /monitoring
		/workload_metrics /connection_metrics /authz /status/metric`,
	"metrics": `kmesh_tcp_connections_opened_total kmesh_tcp_connections_closed_total kmesh_tcp_received_bytes_total kmesh_tcp_sent_bytes_total
		kmesh_tcp_workload_connections_opened_total kmesh_tcp_workload_received_bytes_total kmesh_tcp_workload_sent_bytes_total
		kmesh_tcp_retrans_total kmesh_tcp_packet_loss_total kmesh_tcp_connection_sent_bytes_total kmesh_bpf_prog_operation_duration
		kmesh_bpf_prog_operation_count kmesh_map_entry_count kmesh_map_count_total connection_security_policy`,
	"kmeshctl": `authz enable disable status dump log --set monitoring --all --accesslog --workloadMetrics --connectionMetrics secret create get delete
		version waypoint apply generate list`,
	"EnvoyFilters": `add-listener-filter skip-tunneling add-original-dst-cluster`,
	"the rest":     `kmeshnodeinfos.kmesh.net kmesh-ipsec kmesh-system uninstall`,
}

// The guide says of each of them what it is here.
func TestGuideHasAllOfKmesh(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrate-from-kmesh.md"))
	must(t, err)
	words := map[string]bool{}
	for _, w := range regexp.MustCompile(`[\w./-]*\w`).FindAllString(string(data), -1) {
		words[w] = true
	}
	if words["--enable-nothing"] || words["kmeshctl_none"] {
		t.Fatal("the control: words that are not there are found")
	}
	for what, names := range surface {
		for _, name := range strings.Fields(names) {
			if !words[name] {
				t.Errorf("%s: the guide does not name %s", what, name)
			}
		}
	}
}
