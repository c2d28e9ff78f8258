#!/usr/bin/env bash
# kind-load.sh ARCHIVE… puts images, as `make images` writes them, into every node
# of the kind cluster.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

[ $# -gt 0 ] || die "which image? make kind-load IMAGE=out/images/duomesh-agent.tar" 2
for archive in "$@"; do
	if [ ! -f "$archive" ] || [ ! -r "$archive" ]; then
		die "image archive $archive cannot be read" 2
	fi
done
kind_program
reach || die "no container engine answers: make kind-up makes a cluster"
running || die "there is no cluster $cluster: make kind-up makes one"
for archive in "$@"; do
	"$kind" load image-archive "$archive" --name "$cluster" >&2
done
