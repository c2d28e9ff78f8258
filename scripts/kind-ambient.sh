#!/usr/bin/env bash
# Puts the node programs of Istio Ambient into the kind cluster, beside duomesh: ztunnel
# and istio-cni of the version of its istiod, from images and manifests that are made
# here, and returns when every node has both. Pods go behind ztunnel where their
# namespace has the label istio.io/dataplane-mode=ambient; duomesh leaves those alone.
# With --remove it takes both away again.
#
#   ZTUNNEL_BIN    a ztunnel; else it is taken out of its released image, where a
#                  registry can be reached (ZTUNNEL_IMAGE=NAME@sha256:…, none: it is not)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

tag=${TAG:-0.1.0}
export KUBECONFIG=${KUBECONFIG:-$kubeconfig}
system=istio-system

# manifests prints those of both, as the cluster's istioctl has them.
manifests() {
	local families ipv6=false
	families=$(kubectl get nodes -o 'jsonpath={.items[*].spec.podCIDRs}')
	case $families in
	*:*) ipv6=true ;;
	esac
	"$ISTIOCTL_BIN" manifest generate --set profile=ambient --set components.base.enabled=false --set components.pilot.enabled=false \
		--set values.global.imagePullPolicy=IfNotPresent --set values.global.multiCluster.clusterName="${CLUSTER_ID:-Kubernetes}" \
		--set values.cni.image="docker.io/duomesh/istio-cni:$tag" --set values.cni.ambient.ipv6=$ipv6 \
		--set values.cni.resources.requests.cpu=50m --set values.cni.useAppArmorAnnotation=false \
		--set values.ztunnel.image="docker.io/duomesh/ztunnel:$tag" --set values.ztunnel.env.IPV6_ENABLED=$ipv6 \
		--set values.ztunnel.resources.requests.cpu=50m
}

kubectl() { "$KUBECTL_BIN" "$@"; }

# remove ends the DaemonSets first: istio-cni takes itself out of the nodes' chains
# while it may still ask the API server whether it is gone for good.
remove() {
	kubectl --namespace $system delete daemonset istio-cni-node ztunnel --ignore-not-found --cascade=foreground --timeout 120s >&2
	manifests | kubectl delete --ignore-not-found -f - >/dev/null
}

# ztunnel sets ZTUNNEL_BIN where the environment does not.
ztunnel() {
	local image digest
	if [ -n "${ZTUNNEL_BIN:-}" ]; then
		[ -x "$ZTUNNEL_BIN" ] || die "ZTUNNEL_BIN=$ZTUNNEL_BIN is no program" 2
		return
	fi
	image=${ZTUNNEL_IMAGE:-$(sed -n 's/^const Released = "\(.*\)"$/\1/p' internal/ambient/image.go)}
	digest=${image##*@sha256:}
	[ "$image" != none ] || die "no ztunnel: ZTUNNEL_BIN names none, and ZTUNNEL_IMAGE=none forbids to fetch one"
	[ "$digest" != "$image" ] || die "ZTUNNEL_IMAGE=$image: a digest is needed (NAME@sha256:…)" 2
	ZTUNNEL_BIN=$cache/ztunnel-$digest-$(scripts/go.sh env GOARCH)
	[ -x "$ZTUNNEL_BIN" ] || take ztunnel "$image" /usr/local/bin/ztunnel "$ZTUNNEL_BIN" ||
		die "no ztunnel: ZTUNNEL_BIN names none, and image $image cannot be had"
}

case ${1:-} in
--remove | "") ;;
*) die "unknown argument $1: want --remove, or none" 2 ;;
esac
[ -r "$KUBECONFIG" ] || die "KUBECONFIG=$KUBECONFIG cannot be read: make kind-up makes a cluster" 2
[ -n "${1:-}" ] || ztunnel
exports=$(scripts/controlplane.sh env ambient)
eval "$exports"
if [ "${1:-}" = --remove ]; then
	remove
	note "ztunnel and istio-cni are gone"
	exit
fi
[ -n "$(kubectl --namespace $system get deployments --selector app=istiod -o name)" ] ||
	die "there is no istiod in namespace $system: scripts/kind-istiod.sh puts one there"
export ZTUNNEL_BIN
scripts/images.sh ambient >&2
scripts/kind-load.sh out/images/ambient/istio-cni.tar out/images/ambient/ztunnel.tar
manifests | kubectl apply --server-side --force-conflicts -f - >/dev/null
for d in istio-cni-node ztunnel; do
	kubectl --namespace $system rollout status "daemonset/$d" --timeout 180s >&2
done
note "ztunnel and istio-cni are ready: kubectl label namespace NAME istio.io/dataplane-mode=ambient"
