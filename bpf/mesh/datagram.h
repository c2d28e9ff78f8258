/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision at sendmsg() and its reverse at recvmsg(), for UDP. */
#ifndef MESH_DATAGRAM_H
#define MESH_DATAGRAM_H

#include "flow.h"

#define BPF_TCP_ESTABLISHED 1 /* enum of include/uapi/linux/bpf.h */

static __always_inline struct flows *flows_of(struct bpf_sock_addr *ctx,
					      __u64 flags)
{
	return bpf_sk_storage_get(&udp_flows, ctx->sk, NULL, flags);
}

/* keep_connected is false when the kernel has no memory for it. */
static __always_inline bool keep_connected(struct bpf_sock_addr *ctx,
					   const struct frontend_key *k,
					   const struct choice *c)
{
	struct flows *all = flows_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);

	if (!all)
		return false;
	write_flow(&all->connected, k, c->addr, c->port);
	return true;
}

/* forget_connected is for a socket that connects to what is not redirected. */
static __always_inline void forget_connected(struct bpf_sock_addr *ctx)
{
	struct flows *all = flows_of(ctx, 0);

	if (all)
		all->connected.asked_port = 0;
}

/*
 * How often an endpoint is chosen anew when another flow of the socket has it
 * already: a reply from there could be to either.
 */
#define CHOICES 4

static __always_inline void choose_untaken(struct cpu_state *cpu,
					   const struct flows *all, __u32 at,
					   const struct frontend *f,
					   struct choice *c)
{
	for (int i = 0; i < CHOICES; i++) {
		choose_slot(cpu, f, c);
		if (c->exit != EXIT_REDIRECT ||
		    !is_taken(all, at, c->addr, c->port))
			return;
	}
	count(cpu, EVENT_FLOW_SHARED);
}

/* new_flow replaces w, which is at this index, by a choice for k. */
static __always_inline void new_flow(struct bpf_sock_addr *ctx,
				     struct cpu_state *cpu, struct flows *all,
				     struct flow *w, __u32 at,
				     const struct frontend_key *k,
				     const struct frontend *f, struct choice *c)
{
	choose_untaken(cpu, all, at, f, c);
	if (c->exit != EXIT_REDIRECT)
		return;
	if (w->asked_port && !is_flow_to(w, k))
		count(cpu, EVENT_FLOW_EVICTED);
	retire(bpf_get_socket_cookie(ctx), w);
	write_flow(w, k, c->addr, c->port);
}

static __always_inline void use_flow(struct bpf_sock_addr *ctx,
				     struct cpu_state *cpu,
				     const struct frontend_key *k,
				     const struct frontend *f, struct choice *c)
{
	struct flows *all = flows_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	struct flow *w;
	__u32 at;

	if (!all) {
		c->exit = EXIT_REFUSE_NO_FLOW;
		return;
	}
	at = place_of(all, k);
	w = flow_at(all, at);
	if (!w)
		return; /* never */
	if (!is_flow_to(w, k) || !still_leads(f, w)) {
		new_flow(ctx, cpu, all, w, at, k, f, c);
		if (c->exit != EXIT_REDIRECT)
			return;
	}
	w->generation = f->generation;
	w->used = ++all->clock;
	c->addr = w->target;
	c->port = w->target_port;
}

/*
 * sent_directly is for a datagram that goes where it was sent to. Where replies
 * of that address are taken for another one's, they are its own from now on.
 */
static __always_inline void sent_directly(struct bpf_sock_addr *ctx,
					  struct cpu_state *cpu,
					  const struct frontend_key *k)
{
	struct flows *all = flows_of(ctx, 0);
	struct flow *w;
	__u32 at;

	if (!all || !is_taken(all, FLOWS, k->addr, k->port))
		return;
	at = place_of(all, k);
	w = flow_at(all, at);
	if (!w)
		return; /* never */
	if (!is_flow_to(w, k)) {
		count(cpu, EVENT_FLOW_SHARED);
		retire(bpf_get_socket_cookie(ctx), w);
		write_flow(w, k, k->addr, k->port);
	}
	w->used = ++all->clock;
}

/* try_send ends with EVENT_RETRY when what it read was changing. */
static __always_inline void try_send(struct bpf_sock_addr *ctx,
				     struct cpu_state *cpu,
				     const struct frontend_key *k,
				     struct choice *c)
{
	struct frontend f;

	c->exit = find_exact(cpu, k, &f);
	if (c->exit == EXIT_REDIRECT)
		use_flow(ctx, cpu, k, &f, c);
	else if (c->exit == EXIT_PASS_NO_VIP)
		sent_directly(ctx, cpu, k);
}

static __always_inline bool by_connection(struct bpf_sock_addr *ctx,
					  const struct flows *all,
					  const __be32 addr[4], __be16 port)
{
	return ctx->sk->state == BPF_TCP_ESTABLISHED &&
	       is_flow_from(&all->connected, addr, port);
}

/*
 * is_to_peer is true for a datagram to where the socket is connected: connect()
 * has decided. Only an IPv6 socket that is connected to an IPv4 address gets here
 * without an address of the application's own.
 */
static __always_inline bool is_to_peer(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	/* Four bytes of dst_port can be read on every kernel, two since 5.18. */
	return sk->state == BPF_TCP_ESTABLISHED &&
	       sk->dst_ip4 == ctx->user_ip4 &&
	       (__be16) * (const volatile __u32 *)&sk->dst_port ==
		       (__be16)ctx->user_port;
}

/* decide_send counts the exit. Where c->addr is set the caller must write it. */
static __always_inline void decide_send(struct bpf_sock_addr *ctx,
					struct cpu_state *cpu,
					const struct frontend_key *k,
					struct choice *c)
{
	for (int i = 0; i < 2; i++) {
		try_send(ctx, cpu, k, c);
		if (c->exit != EVENT_RETRY)
			break;
		count(cpu, EVENT_RETRY);
	}
	if (c->exit == EVENT_RETRY)
		c->exit = EXIT_REFUSE_SLOT_MISS;
	count(cpu, c->exit);
}

/* answered is what a datagram from addr, port answers. */
struct answered {
	const __be32 *asked; /* NULL: nobody but the sender itself was asked */
	__be16 port;
};

static __always_inline void by_late(struct bpf_sock_addr *ctx,
				    const __be32 addr[4], __be16 port,
				    struct answered *a)
{
	struct late_key key = { .cookie = bpf_get_socket_cookie(ctx) };
	const struct late *late;

	copy_addr(key.target, addr);
	key.target_port = port;
	late = bpf_map_lookup_elem(&lates, &key);
	if (late) {
		a->asked = late->asked;
		a->port = late->asked_port;
	}
}

static __always_inline void find_answered(struct bpf_sock_addr *ctx,
					  const __be32 addr[4], __be16 port,
					  struct answered *a)
{
	struct flows *all = flows_of(ctx, 0);
	const struct flow *w;

	if (!all)
		return;
	w = by_connection(ctx, all, addr, port) ? &all->connected
						: flow_from(all, addr, port);
	if (w) {
		a->asked = w->asked;
		a->port = w->asked_port;
	} else {
		by_late(ctx, addr, port, a);
	}
}

/* connected_to finds what a connected socket asked for. */
static __always_inline void connected_to(struct bpf_sock_addr *ctx,
					 const __be32 addr[4], __be16 port,
					 struct answered *a)
{
	struct flows *all = flows_of(ctx, 0);

	if (all && is_flow_from(&all->connected, addr, port)) {
		a->asked = all->connected.asked;
		a->port = all->connected.asked_port;
	}
}

#endif
