#!/usr/bin/env bash
# rootfs.sh ROOT FILES makes a tree of Debian packages (kind/node/packages) the root
# of a kind node: FILES are those that kind's own image has, and what else is done
# to systemd is what a container asks for.
set -euo pipefail
root=$1 files=$2

while IFS= read -r file; do
	mode=644
	case $file in
	./usr/local/bin/* | ./kind/bin/*) mode=755 ;;
	esac
	install -D -m "$mode" "$files/$file" "$root/$file"
done < <(cd "$files" && find . -type f)

# Units of hardware, of a boot, and of logins that nobody makes.
units=$root/lib/systemd/system
rm -f "$units"/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* "$units"/local-fs.target.wants/* \
	"$units"/sockets.target.wants/*udev* "$units"/sockets.target.wants/*initctl* "$units"/basic.target.wants/* \
	"$units"/sysinit.target.wants/systemd-tmpfiles-setup.service
echo "ReadKMsg=no" >>"$root/etc/systemd/journald.conf"
sed -i 's#^OnBootSec=.*#OnBootSec=1min#' "$units/systemd-tmpfiles-clean.timer"

# containerd is where Debian has it.
sed -i 's#/usr/local/bin/containerd\b#/usr/bin/containerd#' "$root"/etc/systemd/system/containerd.service
chroot "$root" ctr oci spec |
	chroot "$root" jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
		>"$root/etc/containerd/cri-base.json"

mkdir -p "$root/opt/cni/bin" "$root/etc/kubernetes/manifests" "$root/kind/manifests"
for plugin in host-local loopback ptp bridge portmap; do
	cp "$root/usr/lib/cni/$plugin" "$root/opt/cni/bin/"
done
for unit in kubelet containerd undo-mount-hacks; do
	[ ! -e "$root/etc/systemd/system/$unit.service" ] || chroot "$root" systemctl enable "$unit.service"
done
chroot "$root" systemctl mask systemd-binfmt.service
ln -sfn /lib/systemd/systemd "$root/sbin/init"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
