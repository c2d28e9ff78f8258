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

static __always_inline bool same_addr(const __be32 a[4], const __be32 b[4])
{
	return a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0];
}

static __always_inline void copy_addr(__be32 to[4], const __be32 from[4])
{
	for (int i = 0; i < 4; i++)
		to[i] = from[i];
}

static __always_inline bool is_flow_to(const struct flow *w,
				       const struct frontend_key *k)
{
	return w->asked_port == k->port && same_addr(w->asked, k->addr);
}

static __always_inline bool is_flow_from(const struct flow *w,
					 const __be32 addr[4], __be16 port)
{
	return w->asked_port && w->target_port == port &&
	       same_addr(w->target, addr);
}

/*
 * forgotten returns i, of which the verifier then knows nothing: it would follow
 * the rest of the program once for each value.
 */
static __always_inline __u32 forgotten(struct flows *all, __u32 i)
{
	*(volatile __u32 *)&all->at = i;
	return READ_ONCE(all->at);
}

/* flow_at returns NULL beyond the last flow. */
static __always_inline struct flow *flow_at(struct flows *all, __u32 i)
{
	if (i >= FLOWS)
		return NULL;
	barrier_var(i); /* the address is computed from what was compared */
	return &all->sent[i];
}

static __always_inline __u32 age(const struct flows *all, const struct flow *w)
{
	return w->asked_port ? all->clock - w->used : ~0U;
}

/* place_of returns the index of the flow to k, or the one to use for it. */
static __always_inline __u32 place_of(struct flows *all,
				      const struct frontend_key *k)
{
	__u32 oldest = 0, oldest_age = 0;

	for (__u32 i = 0; i < FLOWS; i++) {
		__u32 a = age(all, &all->sent[i]);

		if (is_flow_to(&all->sent[i], k)) {
			oldest = i;
			break;
		}
		if (a > oldest_age) {
			oldest = i;
			oldest_age = a;
		}
	}
	return forgotten(all, oldest);
}

/* flow_from returns the youngest flow whose replies come from addr, port. */
static __always_inline const struct flow *
flow_from(struct flows *all, const __be32 addr[4], __be16 port)
{
	__u32 youngest = FLOWS, youngest_age = ~0U;

	for (__u32 i = 0; i < FLOWS; i++) {
		__u32 a = age(all, &all->sent[i]);

		if (a < youngest_age &&
		    is_flow_from(&all->sent[i], addr, port)) {
			youngest = i;
			youngest_age = a;
		}
	}
	return flow_at(all, forgotten(all, youngest));
}

/* is_taken is true when another flow than the one at this index has this target. */
static __always_inline bool is_taken(const struct flows *all, __u32 at,
				     const __be32 addr[4], __be16 port)
{
	for (__u32 i = 0; i < FLOWS; i++)
		if (i != at && is_flow_from(&all->sent[i], addr, port))
			return true;
	return false;
}

/* before tells whether a slot's first outcome comes before a target in its set. */
static __always_inline bool before(const struct slot *s, const __be32 addr[4],
				   __be16 port)
{
	for (int i = 0; i < 4; i++)
		if (s->first[i] != addr[i])
			return s->first[i] < addr[i];
	return s->first_port < port;
}

/* Enough halvings for any number of slots. */
#define HALVINGS 32

/* is_member looks a target up in a frontend's set, by halving. */
static __always_inline bool is_member(const struct frontend *f,
				      const struct flow *w)
{
	/* Where all slots have one port the frontend has it, not the slots. */
	__be16 port = f->target_port ? 0 : w->target_port;
	__u32 low = 0, high = f->slots;
	const struct slot *s;
	__u32 index;

	for (int i = 0; i < HALVINGS && low < high; i++) {
		index = f->set + low + (high - low) / 2;
		s = bpf_map_lookup_elem(&slots, &index);
		if (!s || s->generation != f->generation)
			return false;
		if (before(s, w->target, port))
			low = index - f->set + 1;
		else
			high = index - f->set;
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
	if (f->target_port && f->target_port != w->target_port)
		return false;
	return w->generation == f->generation || is_member(f, w);
}

static __always_inline void write_flow(struct flow *w,
				       const struct frontend_key *k,
				       const __be32 target[4], __be16 port)
{
	copy_addr(w->asked, k->addr);
	copy_addr(w->target, target);
	w->asked_port = k->port;
	w->target_port = port;
}

/* retire keeps a flow that is about to be replaced for replies on their way. */
static __always_inline void retire(__u64 cookie, const struct flow *w)
{
	struct late_key key = { .cookie = cookie };
	struct late late = {};

	if (!w->asked_port)
		return;
	copy_addr(key.target, w->target);
	key.target_port = w->target_port;
	copy_addr(late.asked, w->asked);
	late.asked_port = w->asked_port;
	bpf_map_update_elem(&lates, &key, &late, BPF_ANY);
}

#endif
