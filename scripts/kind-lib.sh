# shellcheck shell=bash
# Sourced by other scripts: the kind cluster's names, kind itself,
# and the container engine that its nodes run in.
. "$(dirname "${BASH_SOURCE[0]}")/programs-lib.sh"

cluster=${KIND_CLUSTER:-duomesh}
# shellcheck disable=SC2034 # for those who source this file
kubeconfig=$repo/out/kind/kubeconfig
# Where a container engine of our own lives while it runs, and what it keeps.
run=/run/duomesh-kind
kept=$cache/kind
space=duomesh-kind
link=duomesh-kind0
# Its addresses: of the block that is set aside for tests of networks (RFC 2544).
readonly machine_address=198.18.254.1 space_address=198.18.254.2
readonly bridge=198.18.0.1/24 pool=198.18.64.0/18 routed=198.18.0.0/17

# lacking succeeds when this machine's processes can never have a capability.
lacking() {
	local bounds
	bounds=$(sed -n 's/^CapBnd:\s*//p' /proc/self/status)
	[ $(((0x$bounds >> $1) & 1)) -eq 0 ]
}
# shellcheck disable=SC2034 # likewise
readonly CAP_SYS_RESOURCE=24

# missing_capability succeeds when any that the kernel knows is lacking.
missing_capability() {
	local n last
	last=$(cat /proc/sys/kernel/cap_last_cap)
	for ((n = 0; n <= last; n++)); do
		lacking "$n" && return 0
	done
	return 1
}

ours() { [ -S "$run/docker.sock" ]; }

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# reach lets docker and kind find the engine that runs: ours, else the machine's.
reach() {
	if ours; then
		export DOCKER_HOST=unix://$run/docker.sock
		case $PATH in
		/usr/bin:/usr/sbin:*) ;;
		*) export PATH=/usr/bin:/usr/sbin:$PATH ;; # Debian's docker before others
		esac
	fi
	have docker && answers
}

# engine starts one of our own where none runs.
engine() {
	reach && return 0
	engine_stop # what is left of one that was killed
	scripts/ensure-packages.sh kind
	start_engine
}

# start_engine runs dockerd in namespaces of its own: what it does to iptables,
# mounts and processes ends with it, and nothing of this machine's is touched.
start_engine() {
	local runtime=() i
	note "no container engine runs here: starting one in network namespace $space"
	mkdir -p "$run" "$kept/docker" out/kind
	ip netns add "$space"
	ip -n "$space" link set lo up
	ip link add "$link" type veth peer name eth0 netns "$space"
	ip address add "$machine_address/30" dev "$link"
	ip link set "$link" up
	ip -n "$space" address add "$space_address/30" dev eth0
	ip -n "$space" link set eth0 up
	ip route add "$routed" via "$space_address"
	if missing_capability; then
		scripts/go.sh build -o "$run/runcwrap" ./kind/cmd/runcwrap
		runtime=(--add-runtime "duomesh=$run/runcwrap" --default-runtime duomesh)
	fi
	setsid unshare --mount --propagation slave --pid --fork --kill-child=KILL --mount-proc \
		nsenter --net="/run/netns/$space" \
		dockerd --data-root "$kept/docker" --exec-root "$run/exec" --pidfile "$run/dockerd.pid" \
		-H "unix://$run/docker.sock" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /duomesh-kind \
		--storage-driver overlay2 --bip "$bridge" --default-address-pool "base=$pool,size=24" "${runtime[@]}" \
		>out/kind/dockerd.log 2>&1 </dev/null &
	echo $! >"$run/pid"
	for ((i = 0; i < 300; i++)); do
		reach && break
		kill -0 "$(cat "$run/pid")" 2>/dev/null || break
		sleep 0.2
	done
	if ! reach; then
		tail -n 5 out/kind/dockerd.log >&2
		engine_stop
		die "dockerd did not start: out/kind/dockerd.log"
	fi
	nsenter --net="/run/netns/$space" iptables -w -I DOCKER-USER -i eth0 -j ACCEPT
	weigh
}

# weigh gives the engine's containers the weight of sixteen processes: all that runs in
# a cluster is otherwise one to the scheduler, beside each of this machine's own.
weigh() {
	local top=/sys/fs/cgroup processes=16
	if [ -e $top/cpu/cpu.shares ]; then
		mkdir -p $top/cpu/duomesh-kind
		echo $((processes * 1024)) >$top/cpu/duomesh-kind/cpu.shares
	elif grep -qsw cpu $top/cgroup.subtree_control; then
		mkdir -p $top/duomesh-kind
		echo $((processes * 100)) >$top/duomesh-kind/cpu.weight
	fi
}

# engine_stop ends an engine of our own and whatever runs in it. Its images stay.
engine_stop() {
	local pid child i
	pid=$(cat "$run/pid" 2>/dev/null || true)
	if [ -n "$pid" ] && grep -qsz "$run/docker.sock" "/proc/$pid/cmdline"; then
		child=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
		# shellcheck disable=SC2086 # none, or one
		[ -z "$child" ] || kill -TERM $child 2>/dev/null || true
		for ((i = 0; i < 150; i++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.2
		done
		kill -KILL "$pid" 2>/dev/null || true
	fi
	if [ -e "/run/netns/$space" ]; then
		ip netns del "$space"
	fi
	ip link del "$link" 2>/dev/null || true
	remove_cgroups
	rm -rf "$run"
}

# remove_cgroups removes the empty directories that an engine leaves, in every
# hierarchy.
remove_cgroups() {
	local dir i
	for dir in /sys/fs/cgroup/duomesh-kind /sys/fs/cgroup/*/duomesh-kind; do
		[ -d "$dir" ] || continue
		for ((i = 0; i < 50; i++)); do
			find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null && break
			sleep 0.1
		done
		[ ! -d "$dir" ] || note "$dir is still in use"
	done
}

# kind_program builds kind itself once and sets $kind.
kind_program() {
	program KIND_BIN kind kind sigs.k8s.io/kind "" "-s -w"
	kind=${found[-1]#*=}
}

kubectl_program() {
	program KUBECTL_BIN kubectl kubernetes k8s.io/kubernetes/cmd/kubectl "" "$(version_flags)"
	# shellcheck disable=SC2034 # likewise
	kubectl=${found[-1]#*=}
}

running() { "$kind" get clusters 2>/dev/null | grep -qx "$cluster"; }
