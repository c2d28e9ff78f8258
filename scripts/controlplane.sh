#!/usr/bin/env bash
# Puts etcd, kube-apiserver, kubectl, istiod and istioctl into the cache: taken out of
# their released images where a registry can be reached (DUOMESH_REGISTRY names a
# mirror, `none` leaves that out), else built from their Go modules. Or it names the
# ones that the environment gives (ETCD_BIN, KUBE_APISERVER_BIN, KUBECTL_BIN,
# ISTIOD_BIN, ISTIOCTL_BIN, GATEWAY_CRDS). A build that is interrupted goes on where it
# stopped: what is compiled stays in Go's own cache, and a program that is whole is
# not built again. With `env` it prints the variables for a shell, and builds nothing
# that is there. With `ambient` after it, it is the two programs of Istio's CNI plugin
# too (ISTIO_CNI_BIN, INSTALL_CNI_BIN).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/programs-lib.sh

flags=$(version_flags)
etcd=$(pinned kubernetes go.etcd.io/etcd/server/v3)
# What istio.io/istio is in go.mod is no release: the one whose API it is built with.
istio=$(pinned controlplane istio.io/api)
program ETCD_BIN etcd kubernetes go.etcd.io/etcd/server/v3 "" "-s -w" \
	"registry.k8s.io/etcd:${etcd#v}-0" /usr/local/bin/etcd
program KUBE_APISERVER_BIN kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver "" "$flags" \
	"registry.k8s.io/kube-apiserver:$kubernetes" /usr/local/bin/kube-apiserver
program KUBECTL_BIN kubectl kubernetes k8s.io/kubernetes/cmd/kubectl "" "$flags" \
	"registry.k8s.io/kubectl:$kubernetes" /bin/kubectl
program ISTIOD_BIN istiod controlplane istio.io/istio/pilot/cmd/pilot-discovery vtprotobuf,disable_pgv "-s -w" \
	"docker.io/istio/pilot:${istio#v}" /usr/local/bin/pilot-discovery
program ISTIOCTL_BIN istioctl controlplane istio.io/istio/istioctl/cmd/istioctl vtprotobuf,disable_pgv "-s -w" \
	"docker.io/istio/istioctl:${istio#v}" /usr/local/bin/istioctl
if [ "${2:-}" = ambient ]; then
	program ISTIO_CNI_BIN istio-cni controlplane istio.io/istio/cni/cmd/istio-cni vtprotobuf,disable_pgv "-s -w" \
		"docker.io/istio/install-cni:${istio#v}" /opt/cni/bin/istio-cni
	program INSTALL_CNI_BIN install-cni controlplane istio.io/istio/cni/cmd/install-cni vtprotobuf,disable_pgv "-s -w" \
		"docker.io/istio/install-cni:${istio#v}" /usr/local/bin/install-cni
fi

# The definitions of the Gateway API, of the version that istiod is built with.
gateway_crds() {
	local to from
	if [ -n "${GATEWAY_CRDS:-}" ]; then
		[ -d "$GATEWAY_CRDS" ] || die "GATEWAY_CRDS=$GATEWAY_CRDS is no directory" 2
		to=$GATEWAY_CRDS
	else
		to=$(place controlplane)/gateway-crds
		if [ ! -d "$to" ]; then
			from=$(scripts/go.sh -C tools/controlplane list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
			mkdir -p "$to.part"
			cp "$from"/config/crd/standard/gateway.networking.k8s.io_*.yaml "$to.part"
			chmod -R u+w "$to.part"
			mv "$to.part" "$to"
		fi
	fi
	found+=("GATEWAY_CRDS=$to")
}
gateway_crds

# What a person's own `duomesh netsim up --istiod` finds without being told.
current=$cache/controlplane/current
mkdir -p "$current"
for pair in "${found[@]}"; do
	name=${pair#*=}
	case ${pair%%=*} in
	ETCD_BIN) ln -sfn "$name" "$current/etcd" ;;
	KUBE_APISERVER_BIN) ln -sfn "$name" "$current/kube-apiserver" ;;
	KUBECTL_BIN) ln -sfn "$name" "$current/kubectl" ;;
	ISTIOD_BIN) ln -sfn "$name" "$current/istiod" ;;
	ISTIOCTL_BIN) ln -sfn "$name" "$current/istioctl" ;;
	GATEWAY_CRDS) ln -sfn "$name" "$current/gateway-crds" ;;
	esac
done

case ${2:-} in
"" | ambient) ;;
*) die "unknown argument $2: want ambient, or none" 2 ;;
esac
case ${1:-} in
env) printf 'export %s\n' "${found[@]}" ;;
"") printf '%s\n' "${found[@]}" ;;
*) die "unknown argument $1: want env, or none" 2 ;;
esac
