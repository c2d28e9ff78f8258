#!/usr/bin/env bash
# Installs istiod on the kind cluster, from the image and manifests that are made
# here, and returns when it is ready. With a revision (as 1-22-6) it is one of that
# name, with a headless Service of port 15012 alone, as hosted control planes have.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

revision=${1:-}
tag=${TAG:-0.1.0}
exports=$(scripts/controlplane.sh env)
eval "$exports"
export KUBECONFIG=${KUBECONFIG:-$kubeconfig}
kubectl() { "$KUBECTL_BIN" "$@"; }

settings=(
	--set profile=minimal --set values.pilot.image="docker.io/duomesh/istiod:$tag" --set values.global.imagePullPolicy=IfNotPresent
	--set values.pilot.env.PILOT_ENABLE_AMBIENT=true
	--set values.global.multiCluster.clusterName="${CLUSTER_ID:-Kubernetes}"
	--set values.pilot.autoscaleEnabled=false
	--set values.pilot.resources.requests.cpu=50m --set values.pilot.resources.requests.memory=128Mi
)
[ -z "$revision" ] || settings+=(--set revision="$revision")

kubectl create namespace istio-system --dry-run=client -o yaml | kubectl apply -f - >/dev/null
kubectl apply --server-side -f "$GATEWAY_CRDS" >/dev/null
made=$(mktemp)
trap 'rm -f "$made"' EXIT
"$ISTIOCTL_BIN" manifest generate "${settings[@]}" >"$made"
# Kinds first: what is of them can be applied only when they are there.
kubectl apply --server-side --force-conflicts -f "$made" >/dev/null 2>&1 || true
kubectl wait --for condition=Established --all customresourcedefinitions --timeout 60s >/dev/null
kubectl apply --server-side --force-conflicts -f "$made" >/dev/null
name=istiod${revision:+-$revision}
kubectl --namespace istio-system rollout status "deployment/$name" --timeout 180s >&2
if [ -n "$revision" ]; then
	kubectl --namespace istio-system delete service "$name" >/dev/null
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Service
		metadata: {name: $name, namespace: istio-system, labels: {app: istiod, istio.io/rev: $revision}}
		spec:
		  clusterIP: None
		  selector: {app: istiod, istio.io/rev: $revision}
		  ports: [{name: grpc-xds, port: 15012}]
	END
fi
note "istiod is ready: XDS_ADDRESS $name.istio-system.svc:15012"
