/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a decision at sendmsg() keeps, and its reverse at recvmsg(), for UDP. */
#ifndef MESH_DATAGRAM_H
#define MESH_DATAGRAM_H

#include "flow.h"

#define BPF_TCP_ESTABLISHED 1 /* enum of include/uapi/linux/bpf.h */

static __always_inline struct flows *flows_of(struct bpf_sock_addr *ctx,
					      __u64 flags)
{
	return bpf_sk_storage_get(&udp_flows, ctx->sk, NULL, flags);
}

/* forget_late: from now on replies from addr, port are the sender's own. */
static __always_inline void forget_late(struct bpf_sock_addr *ctx,
					const __be32 addr[4], __be16 port)
{
	struct late_key key = {};

	late_key_of(&key, bpf_get_socket_cookie(ctx), addr, port);
	bpf_map_delete_elem(&lates, &key);
}

/* keep_connected is false when the kernel has no memory for it. */
static __always_inline bool keep_connected(struct bpf_sock_addr *ctx,
					   const struct frontend_key *k,
					   const struct choice *c)
{
	struct flows *all = flows_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);

	if (!all)
		return false;
	retire(bpf_get_socket_cookie(ctx), &all->connected);
	write_flow(&all->connected, k, c->addr, c->port);
	all->connected.used = 0;
	return true;
}

/*
 * forget_connected is for a socket that connects to k, which is not redirected: from
 * there it hears k itself, but for what others have on their way to it.
 */
static __always_inline void forget_connected(struct bpf_sock_addr *ctx,
					     const struct frontend_key *k)
{
	struct flows *all = flows_of(ctx, 0);

	if (!all)
		return;
	retire(bpf_get_socket_cookie(ctx), &all->connected);
	all->connected.asked_port = 0;
	forget_late(ctx, k->addr, k->port);
}

/*
 * is_peer is 1 for what the socket is connected to, in the kernel's own words, else
 * 0: it may have connected where no program of ours decided.
 */
static __always_inline __u64 is_peer(const struct bpf_sock *sk,
				     const __be32 addr[4], __be16 port)
{
	const __be32 dst[4] = { sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2],
				sk->dst_ip6[3] };
	/* Four bytes of dst_port can be read on every kernel, two since 5.18. */
	__be16 dst_port = *(const volatile __u32 *)&sk->dst_port;
	__u64 is4 = is_zero(addr[0] | addr[1] | (addr[2] ^ bpf_htonl(0xffff)));
	__u64 other = either(is4, sk->dst_ip4 ^ addr[3], differs(dst, addr));

	return is_zero(other | (dst_port ^ port) |
		       (sk->state ^ BPF_TCP_ESTABLISHED));
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

/* choose_again reads the frontend again, since a slot was not its own any more. */
static __always_inline void choose_again(struct cpu_state *cpu,
					 const struct frontend_key *k,
					 struct frontend *f, struct choice *c)
{
	count(cpu, EVENT_RETRY);
	c->exit = find_exact(cpu, k, f);
	if (c->exit == EXIT_REDIRECT)
		choose_slot(cpu, f, c);
}

/* new_flow replaces the flow at this index by a choice for k. */
static __always_inline void new_flow(struct bpf_sock_addr *ctx,
				     struct cpu_state *cpu, struct flows *all,
				     __u32 at, const struct frontend_key *k,
				     struct frontend *f, struct choice *c)
{
	struct flow *w = flow_at(all, at);

	choose_untaken(cpu, all, at, f, c);
	if (c->exit == EVENT_RETRY)
		choose_again(cpu, k, f, c);
	if (c->exit != EXIT_REDIRECT)
		return;
	if (w->asked_port && !is_flow_to(w, k))
		count(cpu, EVENT_FLOW_EVICTED);
	retire(bpf_get_socket_cookie(ctx), w);
	write_flow(w, k, c->addr, c->port);
}

/*
 * is_connected_to is true for a socket whose connect() to k was decided: it hears
 * nobody but that endpoint.
 */
static __always_inline bool is_connected_to(struct bpf_sock_addr *ctx,
					    const struct flows *all,
					    const struct frontend_key *k)
{
	const struct flow *w = &all->connected;

	return is_flow_to(w, k) & is_peer(ctx->sk, w->target, w->target_port);
}

static __always_inline void use_flow(struct bpf_sock_addr *ctx,
				     struct cpu_state *cpu,
				     const struct frontend_key *k,
				     struct frontend *f, struct choice *c)
{
	struct flows *all = flows_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	struct flow *w;
	__u32 at;

	if (!all) {
		c->exit = EXIT_REFUSE_NO_FLOW;
		return;
	}
	if (is_connected_to(ctx, all, k)) {
		c->addr = all->connected.target;
		c->port = all->connected.target_port;
		return;
	}
	at = place_of(all, k);
	w = flow_at(all, at);
	if (!is_flow_to(w, k) || !still_leads(f, w)) {
		new_flow(ctx, cpu, all, at, k, f, c);
		if (c->exit != EXIT_REDIRECT)
			return;
	}
	w->generation = f->generation;
	use(all, at);
	c->addr = w->target;
	c->port = w->target_port;
}

/*
 * forget_disconnected ends what answered for replies from k, of a socket that was
 * connected there and is no more.
 */
static __always_inline void forget_disconnected(struct bpf_sock_addr *ctx,
						struct flows *all,
						const struct frontend_key *k)
{
	struct flow *w = &all->connected;

	if (is_flow_from(w, k->addr, k->port) &&
	    !is_peer(ctx->sk, k->addr, k->port))
		w->asked_port = 0;
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

	if (!all)
		return;
	if (!is_any_from(all, k->addr, k->port)) {
		forget_disconnected(ctx, all, k);
		forget_late(ctx, k->addr, k->port);
		return;
	}
	at = place_of(all, k);
	w = flow_at(all, at);
	if (!is_flow_to(w, k)) {
		count(cpu, EVENT_FLOW_SHARED);
		retire(bpf_get_socket_cookie(ctx), w);
		write_flow(w, k, k->addr, k->port);
	}
	use(all, at);
}

/* find_settled is find_exact, once more where what it read was changing. */
static __always_inline enum mesh_exit find_settled(struct cpu_state *cpu,
						   const struct frontend_key *k,
						   struct frontend *f)
{
	enum mesh_exit exit = find_exact(cpu, k, f);

	if (exit != EVENT_RETRY)
		return exit;
	count(cpu, EVENT_RETRY);
	return find_exact(cpu, k, f);
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
	struct late_key key = {};
	const struct late *late;

	late_key_of(&key, bpf_get_socket_cookie(ctx), addr, port);
	late = bpf_map_lookup_elem(&lates, &key);
	if (late) {
		a->asked = late->asked;
		a->port = late->asked_port;
	}
}

/*
 * by_connection finds what a connected socket asked for. When it is disconnected that
 * holds on for replies on their way.
 */
static __always_inline void by_connection(const struct flows *all,
					  const __be32 addr[4], __be16 port,
					  struct answered *a)
{
	if (all->connected.asked_port &&
	    is_flow_from(&all->connected, addr, port)) {
		a->asked = all->connected.asked;
		a->port = all->connected.asked_port;
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
	if (is_peer(ctx->sk, addr, port)) {
		by_connection(all, addr, port, a);
		return;
	}
	w = flow_from(all, addr, port);
	if (w) {
		a->asked = w->asked;
		a->port = w->asked_port;
		return;
	}
	by_connection(all, addr, port, a);
	if (!a->asked)
		by_late(ctx, addr, port, a);
}

/* connected_to is by_connection for a socket whose flows may be none. */
static __always_inline void connected_to(struct bpf_sock_addr *ctx,
					 const __be32 addr[4], __be16 port,
					 struct answered *a)
{
	struct flows *all = flows_of(ctx, 0);

	if (all)
		by_connection(all, addr, port, a);
}

#endif
