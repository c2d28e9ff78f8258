#!/usr/bin/env bash
# Builds etcd, kube-apiserver, kubectl, istiod and istioctl from their Go modules
# into the cache, or names the ones that the environment gives (ETCD_BIN,
# KUBE_APISERVER_BIN, KUBECTL_BIN, ISTIOD_BIN, ISTIOCTL_BIN, GATEWAY_CRDS). A build that is
# interrupted goes on where it stopped: what is compiled stays in Go's own cache,
# and a program that is whole is not built again. With `env` it prints the
# variables for a shell, and builds nothing that is there.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/programs-lib.sh

flags=$(version_flags)
program ETCD_BIN etcd kubernetes go.etcd.io/etcd/server/v3 "" "-s -w"
program KUBE_APISERVER_BIN kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver "" "$flags"
program KUBECTL_BIN kubectl kubernetes k8s.io/kubernetes/cmd/kubectl "" "$flags"
program ISTIOD_BIN istiod controlplane istio.io/istio/pilot/cmd/pilot-discovery vtprotobuf,disable_pgv "-s -w"
program ISTIOCTL_BIN istioctl controlplane istio.io/istio/istioctl/cmd/istioctl vtprotobuf,disable_pgv "-s -w"

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

case ${1:-} in
env) printf 'export %s\n' "${found[@]}" ;;
"") printf '%s\n' "${found[@]}" ;;
*) die "unknown argument $1: want env, or none" 2 ;;
esac
