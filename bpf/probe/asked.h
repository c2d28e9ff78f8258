/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What applications ask for. The cgroup programs only observe: they are attached
 * to a pod's leaf cgroup, where they run before the program of any ancestor, and
 * let everything pass.
 */
#ifndef DUOMESH_PROBE_ASKED_H
#define DUOMESH_PROBE_ASKED_H

#define PASS 1

/* Filled before load: also report UDP. */
const volatile bool cfg_udp;

static __always_inline bool judged(__u32 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_MPTCP:
		return true;
	case IPPROTO_UDP:
		return cfg_udp;
	default:
		return false;
	}
}

static __always_inline struct event *new_asked(struct bpf_sock_addr *ctx,
					       enum hook hook)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u32 *pod = bpf_map_lookup_elem(&watched, &netns);
	struct event *e;

	if (!pod || !judged(ctx->protocol))
		return NULL;
	e = new_event(EVENT_ASKED, hook, *pod);
	if (!e)
		return NULL;
	e->cookie = bpf_get_socket_cookie(ctx);
	e->protocol = ctx->protocol;
	e->family = ctx->family;
	e->dport = ctx->user_port;
	return e;
}

static __always_inline int asked4(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct event *e = new_asked(ctx, hook);

	if (!e)
		return PASS;
	map_v4(e->dst, ctx->user_ip4);
	submit(e);
	return PASS;
}

static __always_inline int asked6(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct event *e = new_asked(ctx, hook);

	if (!e)
		return PASS;
	e->dst[0] = ctx->user_ip6[0];
	e->dst[1] = ctx->user_ip6[1];
	e->dst[2] = ctx->user_ip6[2];
	e->dst[3] = ctx->user_ip6[3];
	submit(e);
	return PASS;
}

/* released reports that an application let go of a socket, and in what state it
 * was. It runs in the application's own call, so it is seen also where the end of
 * the connection itself is not. */
static __always_inline int released(struct bpf_sock *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u32 *pod = bpf_map_lookup_elem(&watched, &netns);
	struct event *e;

	if (!pod || !judged(ctx->protocol) || ctx->state == BPF_TCP_LISTEN)
		return PASS;
	e = new_event(EVENT_RELEASED, HOOK_RELEASE, *pod);
	if (!e)
		return PASS;
	e->cookie = bpf_get_socket_cookie(ctx);
	e->protocol = ctx->protocol;
	e->family = ctx->family;
	e->old_state = ctx->state;
	submit(e);
	return PASS;
}

#endif
