/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a UDP socket asked for and where that goes, so that all its datagrams to
 * one address go to one endpoint and replies show the address that was asked.
 *
 * It is kept in the socket's own storage: no other socket can push it out, and it
 * ends with the socket. The kernel holds the socket's lock while a program of
 * connect, sendmsg or recvmsg runs for UDP (BPF_CGROUP_RUN_SA_PROG_LOCK).
 */
#ifndef MESH_FLOW_H
#define MESH_FLOW_H

#include "choose.h"
#include "config.h"

static __always_inline void copy_addr(__be32 to[4], const __be32 from[4])
{
	for (int i = 0; i < 4; i++)
		to[i] = from[i];
}

/* differs is 0 for equal addresses. */
static __always_inline __u32 differs(const __be32 a[4], const __be32 b[4])
{
	return (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
}

static __always_inline bool same_addr(const __be32 a[4], const __be32 b[4])
{
	return !differs(a, b);
}

/* is_flow_to is 1 for the flow of datagrams to k, else 0. */
static __always_inline __u64 is_flow_to(const struct flow *w,
					const struct frontend_key *k)
{
	return is_zero(differs(w->asked, k->addr) | (w->asked_port ^ k->port));
}

/*
 * is_flow_from is 1 for a flow whose replies come from addr, port, else 0. A place
 * that was never used has no address.
 */
static __always_inline __u64 is_flow_from(const struct flow *w,
					  const __be32 addr[4], __be16 port)
{
	return is_zero(differs(w->target, addr) | (w->target_port ^ port));
}

/* flow_at takes any number: FLOWS is a power of two. */
static __always_inline struct flow *flow_at(struct flows *all, __u32 i)
{
	return &all->sent[i % FLOWS];
}

/* age is how many datagrams ago a flow was used; a free place is the oldest. */
static __always_inline __u32 age(const struct flows *all, const struct flow *w)
{
	return (all->clock - w->used) | -(__u32)is_zero(w->asked_port);
}

/*
 * ranked puts what decides between flows above the index of one, so that the
 * largest number is that of the flow to take: whether it fits, then how much.
 */
static __always_inline __u64 ranked(__u64 fits, __u32 much, __u32 i)
{
	return (fits << 32 | much) * FLOWS + i;
}

#define RANK_FITS ((1ULL << 32) * FLOWS)

static __always_inline __u64 larger(__u64 a, __u64 b)
{
	return either(is_less(a, b), b, a);
}

/*
 * place_of returns the index of the flow to k, or of the one to use for it: a free
 * one, or the one that was used least recently.
 */
static __always_inline __u32 place_of(struct flows *all,
				      const struct frontend_key *k)
{
	const struct flow *w = flow_at(all, all->last);
	__u64 best = 0;

	if (is_flow_to(w, k))
		return all->last % FLOWS;
	for (__u32 i = 0; i < FLOWS; i++) {
		w = &all->sent[i];
		best = larger(best, ranked(is_flow_to(w, k), age(all, w), i));
	}
	return best % FLOWS;
}

/* flow_from returns the youngest flow whose replies come from addr, port. */
static __always_inline const struct flow *
flow_from(struct flows *all, const __be32 addr[4], __be16 port)
{
	const struct flow *w = flow_at(all, all->last);
	__u64 best = 0;

	if (is_flow_from(w, addr, port))
		return w;
	for (__u32 i = 0; i < FLOWS; i++) {
		w = &all->sent[i];
		best = larger(best, ranked(is_flow_from(w, addr, port),
					   ~age(all, w), i));
	}
	return best < RANK_FITS ? NULL : flow_at(all, best);
}

/* is_taken is true when another flow than the one at this index has this target. */
static __always_inline bool is_taken(const struct flows *all, __u32 at,
				     const __be32 addr[4], __be16 port)
{
	__u64 takers = 0;

	for (__u32 i = 0; i < FLOWS; i++)
		takers |= is_flow_from(&all->sent[i], addr, port) << i;
	return takers & ~(1ULL << at);
}

/* is_any_from is true when some flow has this target. */
static __always_inline bool is_any_from(const struct flows *all,
					const __be32 addr[4], __be16 port)
{
	return is_taken(all, FLOWS, addr, port);
}

/* use makes a flow the youngest. */
static __always_inline void use(struct flows *all, __u32 at)
{
	flow_at(all, at)->used = ++all->clock;
	all->last = at;
}

/* order is where a target stands among the first outcomes of a set. */
struct order {
	__u64 high, low;
	__u64 port;
};

static __always_inline void order_of(struct order *o, const __be32 addr[4],
				     __be16 port)
{
	o->high = (__u64)addr[0] << 32 | addr[1];
	o->low = (__u64)addr[2] << 32 | addr[3];
	o->port = port;
}

/* is_before is 1 where a comes before b, else 0. */
static __always_inline __u64 is_before(const struct order *a,
				       const struct order *b)
{
	__u64 below = is_less(a->port, b->port);

	below = is_less(a->low, b->low) | (is_zero(a->low ^ b->low) & below);
	return is_less(a->high, b->high) | (is_zero(a->high ^ b->high) & below);
}

/* Halvings enough for any number of slots; cfg_halvings are those for the map. */
#define HALVINGS 32

/*
 * has_own_ports is 1 where each slot has its port, 0 where all have one: then the
 * frontend has it, not the slots.
 */
static __always_inline __u64 has_own_ports(const struct frontend *f)
{
	return is_zero(f->target_port);
}

/* is_member looks a target up in a frontend's set, by halving. */
static __always_inline bool is_member(const struct frontend *f,
				      const struct flow *w)
{
	__be16 port = has_own_ports(f) * w->target_port;
	__u32 low = 0, high = f->slots;
	struct order wanted, found;
	__u32 index, middle;
	const struct slot *s;
	__u64 above;

	order_of(&wanted, w->target, port);

	for (int i = 0; i < HALVINGS && i < cfg_halvings && low < high; i++) {
		middle = low + (high - low) / 2;
		index = f->set + middle;
		s = bpf_map_lookup_elem(&slots, &index);
		if (!s || s->generation != f->generation)
			return false;
		order_of(&found, s->first, s->first_port);
		above = is_before(&found, &wanted);
		low = either(above, middle + 1, low);
		high = either(above, high, middle);
	}
	index = f->set + low;
	s = low < f->slots ? bpf_map_lookup_elem(&slots, &index) : NULL;
	return s && s->generation == f->generation && s->first_port == port &&
	       same_addr(s->first, w->target);
}

/* still_leads is true when the endpoint of a flow is in the service yet. */
static __always_inline bool still_leads(const struct frontend *f,
					const struct flow *w)
{
	if (!(has_own_ports(f) | is_zero(f->target_port ^ w->target_port)))
		return false;
	return w->generation == f->generation || is_member(f, w);
}

/* write_flow leaves it to the caller to say in which set the target was found. */
static __always_inline void write_flow(struct flow *w,
				       const struct frontend_key *k,
				       const __be32 target[4], __be16 port)
{
	copy_addr(w->asked, k->addr);
	copy_addr(w->target, target);
	w->asked_port = k->port;
	w->target_port = port;
	w->generation = 0; /* no set has it */
}

/* late_key_of is the key in lates of what replies from addr, port answer. */
static __always_inline void late_key_of(struct late_key *key, __u64 cookie,
					const __be32 addr[4], __be16 port)
{
	key->cookie = cookie;
	copy_addr(key->target, addr);
	key->target_port = port;
}

/* retire keeps a flow that is about to be replaced for replies on their way. */
static __always_inline void retire(__u64 cookie, const struct flow *w)
{
	struct late_key key = {};
	struct late late = {};

	if (!w->asked_port)
		return;
	late_key_of(&key, cookie, w->target, w->target_port);
	copy_addr(late.asked, w->asked);
	late.asked_port = w->asked_port;
	bpf_map_update_elem(&lates, &key, &late, BPF_ANY);
}

#endif
