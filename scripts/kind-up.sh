#!/usr/bin/env bash
# Makes a kind cluster, of one control plane and two workers in two zones, that is
# an ordinary cluster to every tool: it prints its KUBECONFIG. Where no container
# engine runs it starts one of its own (kind-lib.sh); where no registry can be
# reached the nodes run an image that is made here (kind-node-image.sh).
#
#   KIND_CLUSTER     its name, default duomesh
#   KIND_CONFIG      default kind/cluster.yaml
#   KIND_IP_FAMILY   ipv4, ipv6 or dual, default ipv4
#   KIND_NODE_IMAGE  an image that the engine has or can fetch
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

family=${KIND_IP_FAMILY:-ipv4}
case $family in
ipv4 | ipv6 | dual) ;;
*) die "KIND_IP_FAMILY=$family: want ipv4, ipv6 or dual" 2 ;;
esac
config=${KIND_CONFIG:-kind/cluster.yaml}
[ -r "$config" ] || die "KIND_CONFIG=$config cannot be read" 2

mkdir -p out/kind
kind_program
kubectl_program
engine
if running; then
	note "cluster $cluster is there already; make kind-down removes it"
else
	image=${KIND_NODE_IMAGE:-}
	if [ -z "$image" ] && { ours || ! docker pull -q "$(scripts/kind-node-image.sh --released)" >/dev/null 2>&1; }; then
		image=$(scripts/kind-node-image.sh)
	fi
	made=$(mktemp)
	trap 'rm -f "$made"' EXIT
	sed "s/^  ipFamily: .*/  ipFamily: $family/" "$config" >"$made"
	start=$SECONDS
	"$kind" create cluster --name "$cluster" --config "$made" --kubeconfig "$kubeconfig" \
		--wait 300s ${image:+--image "$image"} >&2 || die "the cluster was not made; make kind-down removes what is left"
	note "cluster $cluster was made in $((SECONDS - start)) s"
fi

# The API server by its node's own address: also where its published port is in
# another network namespace.
at=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{if .IPAddress}}{{.IPAddress}}{{else}}[{{.GlobalIPv6Address}}]{{end}}{{end}}' "$cluster-control-plane")
"$kind" get kubeconfig --name "$cluster" --internal | sed "s#server: .*#server: https://$at:6443#" >"$kubeconfig"
chmod 600 "$kubeconfig"
"$kubectl" --kubeconfig "$kubeconfig" wait --for condition=Ready --all nodes --timeout 300s >&2
"$kubectl" --kubeconfig "$kubeconfig" --namespace kube-system rollout status daemonset/kube-proxy --timeout 300s >&2
"$kubectl" --kubeconfig "$kubeconfig" --namespace kube-system rollout status deployment/coredns --timeout 300s >&2
echo "export KUBECONFIG=$kubeconfig"
