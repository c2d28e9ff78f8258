/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What applications ask for, read from the arguments of the kernel's own function
 * for connect(): its copy of the address, before any program of a cgroup has
 * changed it, through io_uring and sendto(MSG_FASTOPEN) too. UDP and MPTCP do not
 * pass here.
 */
#ifndef DUOMESH_PROBE_FUNCTION_H
#define DUOMESH_PROBE_FUNCTION_H

/* Filled before load: where the processor's registers of the first two arguments
 * are in struct pt_regs. */
const volatile __u32 cfg_arg1;
const volatile __u32 cfg_arg2;

static __always_inline __u64 argument(struct pt_regs *ctx, __u32 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)ctx + offset);
	return value;
}

static __always_inline void function_asked(const struct sock *sk,
					   socket_state state,
					   const struct sockaddr *from,
					   __u64 cookie)
{
	struct sockaddr_in6 to = {};
	struct event *e;
	__u64 netns;
	__u32 *pod;

	/* A socket on its way, or connected, asks for nothing new. */
	if (!sk || state != SS_UNCONNECTED ||
	    BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	netns = netns_of(sk);
	pod = bpf_map_lookup_elem(&watched, &netns);
	if (!pod)
		return;
	/* The kernel keeps 128 bytes for any address: the longer one is there. */
	bpf_probe_read_kernel(&to, sizeof(to), from);
	if (to.sin6_family != AF_INET && to.sin6_family != AF_INET6)
		return;
	e = new_event(EVENT_ASKED, HOOK_FUNCTION, *pod);
	if (!e)
		return;
	e->sock = (__u64)sk;
	e->cookie = cookie;
	e->protocol = IPPROTO_TCP;
	e->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	e->dport = to.sin6_port;
	set_asked(e, &to);
	submit(e);
}

static __always_inline int connect_raw(struct pt_regs *ctx)
{
	const struct socket *socket = (void *)argument(ctx, cfg_arg1);
	const struct sock *sk = BPF_CORE_READ(socket, sk);

	function_asked(sk, BPF_CORE_READ(socket, state),
		       (void *)argument(ctx, cfg_arg2), cookie_of(sk));
	return 0;
}

#endif
