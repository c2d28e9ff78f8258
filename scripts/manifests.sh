#!/usr/bin/env bash
# Writes deploy/manifests/duomesh.yaml: the chart with its default values, and the
# namespace that `helm install --create-namespace` would make. With --check it
# writes nothing and fails when the file is not what the chart says.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

file=deploy/manifests/duomesh.yaml

render() {
	cat <<-'END'
		# Made from deploy/helm/duomesh by scripts/manifests.sh: change the chart.
		apiVersion: v1
		kind: Namespace
		metadata:
		  name: duomesh-system
		  labels:
		    pod-security.kubernetes.io/enforce: privileged
	END
	scripts/go.sh -C tools/helm run . -chart "$repo/deploy/helm/duomesh"
}

case ${1:-} in
--check) diff -u "$file" <(render) ;;
"") render >"$file.part" && mv "$file.part" "$file" ;;
*) die "unknown argument $1: want --check, or none" 2 ;;
esac
