#!/usr/bin/env bash
# Removes the kind cluster, and the container engine that make kind-up started for
# it. The node image stays in the cache.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

if reach; then
	kind_program
	"$kind" delete cluster --name "$cluster" --kubeconfig "$kubeconfig" >&2 || true
	if ours && [ -n "$("$kind" get clusters 2>/dev/null)" ]; then
		note "other clusters run in the same engine: it stays"
		exit
	fi
fi
engine_stop
rm -f "$kubeconfig"
