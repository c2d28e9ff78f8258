#!/usr/bin/env bash
# Makes the node image of an air-gapped kind cluster, from Debian packages and the
# modules in tools/, in the container engine that kind uses, and prints its name.
# Each part is made once for what it is made from. With --released it prints the
# image that kind itself would fetch, and makes nothing.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/debian-lib.sh
. scripts/kind-lib.sh

kind_sources() { scripts/go.sh -C tools/kind list -m -f '{{.Dir}}' sigs.k8s.io/kind; }

case ${1:-} in
--released)
	sed -n 's/^const Image = "\(.*\)"$/\1/p' "$(kind_sources)/pkg/apis/config/defaults/image.go"
	exit
	;;
"") ;;
*) die "unknown argument $1: want --released, or none" 2 ;;
esac

# digest FILE… is a name for what is in them.
digest() { cat "$@" | sha256sum | cut -c1-12; }

# programs puts the node's programs into $bin.
programs() {
	local flags p
	flags=$(version_flags)
	for p in kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
		program "" "$p" kubernetes "k8s.io/kubernetes/cmd/$p" "" "$flags"
	done
	program "" etcd kubernetes go.etcd.io/etcd/server/v3 "" "-s -w"
	program "" coredns coredns . "" "-s -w"
	for p in "${found[@]}"; do
		ln -sfn "${p#*=}" "$bin/$(basename "${p#*=}")"
	done
	for p in pause podnet; do
		scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/$p" "./kind/cmd/$p"
	done
}

# base makes the root of a node from packages: $rootfs.
base() {
	local files
	files=$(kind_sources)/images/base/files
	rootfs=$kept/rootfs-$(digest kind/node/packages kind/node/rootfs.sh tools/kind/go.sum).tar
	[ -e "$rootfs" ] && return
	scripts/ensure-packages.sh kind-node
	note "making the root of a node from Debian packages"
	mmdebstrap --quiet --mode=root --variant=minbase --include="$(paste -sd , kind/node/packages)" \
		--aptopt='APT::Install-Recommends "false"' \
		--customize-hook="kind/node/rootfs.sh \"\$1\" $files" \
		bookworm "$rootfs.part.tar" >&2
	mv "$rootfs.part.tar" "$rootfs"
}

# archives makes the images of the node's own pods in $kept/images.
archives() {
	local names sandbox
	sandbox=$(tar -xOf "$rootfs" ./etc/containerd/config.toml | sed -n 's/.*sandbox_image = "\(.*\)"/\1/p')
	names=$("$bin/kubeadm" config images list --kubernetes-version "$kubernetes" 2>/dev/null)
	# coredns is below a directory of its own name, pause has two tags.
	names=$(printf '%s\n' "$names" "$sandbox" localhost/duomesh/podnet:v1 | sort -u | paste -sd ' ')
	root=
	unpack_packages iptables nftables conntrack iproute2
	rm -rf "$kept/images"
	scripts/go.sh run ./internal/images/cmd/images -bin "$bin" -root "$root" -node "$names" -o "$kept/images" >&2
}

# node commits a container of the root, with the programs in it and the images in
# its containerd, as $image.
node() {
	local c
	docker import -c 'ENV container=docker' "$rootfs" "duomesh/kind-base:$version" >/dev/null
	c=$(docker run -d --privileged --entrypoint sleep "duomesh/kind-base:$version" infinity)
	trap 'docker rm -f '"$c"' >/dev/null' EXIT
	for p in kubeadm kubelet kubectl; do
		docker cp -L "$bin/$p" "$c:/usr/bin/$p" >&2
	done
	for p in default-cni.yaml default-storage.yaml; do
		docker cp "kind/node/$p" "$c:/kind/manifests/$p" >&2
	done
	docker exec "$c" sh -c "printf %s $kubernetes >/kind/version; chmod 755 /usr/bin/kube*"
	if lacking "$CAP_SYS_RESOURCE"; then
		docker exec "$c" sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml
	fi
	docker exec -d "$c" containerd
	docker exec "$c" sh -c 'for i in $(seq 100); do ctr version >/dev/null 2>&1 && exit; sleep 0.2; done; exit 1'
	for p in "$kept"/images/*.tar; do
		docker exec -i "$c" ctr --namespace k8s.io images import --all-platforms --no-unpack --digests - <"$p" >&2
	done
	docker exec "$c" sh -c 'kill $(pidof containerd); while pidof containerd >/dev/null; do sleep 0.1; done; rm -rf /run/containerd/*'
	docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' "$c" "$image" >/dev/null
	docker rm -f "$c" >/dev/null
	trap - EXIT
	docker rmi "duomesh/kind-base:$version" >/dev/null || true
	rm -rf "$kept/images"
}

engine
version=$kubernetes-$(digest tools/kubernetes/go.sum tools/coredns/go.sum tools/kind/go.sum kind/node/* kind/cmd/p*/*.go \
	scripts/kind-node-image.sh internal/images/node.go <(! lacking "$CAP_SYS_RESOURCE" || echo confined))
image=duomesh/kind-node:$version
if ! docker image inspect "$image" >/dev/null 2>&1; then
	bin=$kept/bin
	mkdir -p "$bin"
	programs
	base
	archives
	note "making the node image"
	node
fi
echo "$image"
