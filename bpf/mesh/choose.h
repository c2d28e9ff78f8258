/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From the address that was asked for to one endpoint. */
#ifndef MESH_CHOOSE_H
#define MESH_CHOOSE_H

#include "arith.h"
#include "count.h"

/* Odd 64-bit constants without a pattern; part of the ABI. */
#define CHECK_K0 0x9e3779b185ebca87ULL
#define CHECK_K1 0xc2b2ae3d27d4eb4fULL
#define CHECK_K2 0x165667b19e3779f9ULL
#define CHECK_K3 0x85ebca77c2b2ae63ULL
#define CHECK_K4 0x27d4eb2f165667c5ULL
#define CHECK_K5 0xbf58476d1ce4e5b9ULL
#define CHECK_K6 0x94d049bb133111ebULL
#define CHECK_K7 0xd6e8feb86659fd93ULL

/*
 * A value that was torn or that belongs to another key passes with probability
 * 2^-64: mixing the words of two writes changes the sum, unless they are equal.
 */
static __always_inline __u64 frontend_check(const struct frontend_key *k,
					    const struct frontend *f)
{
	__u64 id = (__u64)f->generation << 32 | f->set;
	__u64 rest = (__u64)f->flags << 48 | (__u64)f->target_port << 32 |
		     f->slots;

	return k->addr[0] * CHECK_K0 + k->addr[1] * CHECK_K1 +
	       k->addr[2] * CHECK_K2 + k->addr[3] * CHECK_K3 +
	       (k->port | (__u32)k->proto << 16) * CHECK_K4 + id * CHECK_K5 +
	       rest * CHECK_K6 + f->id * CHECK_K7;
}

/* read_frontend copies a value; false when it was not whole, or not k's. */
static __always_inline bool read_frontend(const struct frontend_key *k,
					  const struct frontend *from,
					  struct frontend *f)
{
	f->set = READ_ONCE(from->set);
	f->generation = READ_ONCE(from->generation);
	f->slots = READ_ONCE(from->slots);
	f->target_port = READ_ONCE(from->target_port);
	f->flags = READ_ONCE(from->flags);
	f->id = READ_ONCE(from->id);
	return READ_ONCE(from->check) == frontend_check(k, f);
}

/* Where one connection goes, and why. */
struct choice {
	/*
	 * Of a slot: it stays whole until the program ends, since user space
	 * reuses slots a grace period after the last frontend that named them.
	 * NULL unless exit is EXIT_REDIRECT or EXIT_REDIRECT_WAYPOINT.
	 */
	const __be32 *addr;
	__be16 port;
	__u32 exit;
	__u32 id;    /* of the frontend */
	__u32 flags; /* of the frontend */
};

/*
 * pick_slot turns 64 random bits r into column floor(r * n / 2^64) and the next
 * 32 bits of that product, so that each column is hit with probability 1/n to
 * within 2^-64, for any n.
 */
static __always_inline __u32 pick_slot(__u64 r, __u32 n, __u32 *fraction)
{
	__u64 high = (r >> 32) * n + ((r & 0xffffffff) * n >> 32);

	*fraction = high;
	return high >> 32;
}

/* choose_slot leaves the exit as it is, unless what it read was changing. */
static __always_inline void
choose_slot(struct cpu_state *cpu, const struct frontend *f, struct choice *c)
{
	const struct slot *s;
	__u32 fraction;
	__u64 second;
	__u32 index;

	index = f->set + pick_slot(random64(cpu), f->slots, &fraction);
	s = bpf_map_lookup_elem(&slots, &index);
	if (!s || s->generation != f->generation) {
		c->exit = EVENT_RETRY;
		return;
	}
	c->id = f->id;
	c->flags = f->flags;
	second = is_less(fraction, s->threshold) ^ 1;
	c->addr = s->first + second * 4;
	/* One of the two is 0. */
	c->port = (&s->first_port)[second] | f->target_port;
}

static __always_inline bool are_flipping(void)
{
	__u32 only = 0;
	const __u32 *n = bpf_map_lookup_elem(&flips, &only);

	return n && READ_ONCE(*n);
}

/*
 * find_frontend looks a key up. A hash map replaces an element by putting the
 * new one at the head of its bucket and then taking the old one out: a lookup
 * that stands on another element of the bucket meanwhile finds neither. So a
 * miss counts only when no frontend was being replaced, or when every one of
 * FLIP_LOOKS walks from the head missed: each would have to meet the same few
 * nanoseconds of another replacement in the same bucket.
 */
#define FLIP_LOOKS 8

static __always_inline const struct frontend *
find_frontend(struct cpu_state *cpu, const struct frontend_key *k)
{
	const struct frontend *f = bpf_map_lookup_elem(&frontends, k);

	if (f || !are_flipping())
		return f;
	for (int i = 1; i < FLIP_LOOKS; i++) {
		f = bpf_map_lookup_elem(&frontends, k);
		if (f) {
			count(cpu, EVENT_RETRY);
			return f;
		}
	}
	return NULL;
}

/*
 * exit_of is the exit of what k leads to. EVENT_RETRY says that what was read was
 * changing; for EXIT_REDIRECT and EXIT_REDIRECT_WAYPOINT f is the frontend.
 */
static __always_inline enum mesh_exit exit_of(const struct frontend_key *k,
					      const struct frontend *from,
					      struct frontend *f)
{
	if (!read_frontend(k, from, f))
		return EVENT_RETRY;
	if (f->flags & FRONTEND_REFUSE)
		return EXIT_REFUSE_POLICY;
	if (f->flags & FRONTEND_ADDR_ONLY)
		return EXIT_REFUSE_NO_PORT;
	if (f->flags & FRONTEND_PASSTHROUGH)
		return EXIT_PASS_PASSTHROUGH;
	if (f->flags & FRONTEND_WAYPOINT)
		return f->slots ? EXIT_REDIRECT_WAYPOINT
				: EXIT_REFUSE_NO_WAYPOINT;
	return f->slots ? EXIT_REDIRECT : EXIT_REFUSE_NO_ENDPOINT;
}

/* find_exact is the exit of what k itself leads to. */
static __always_inline enum mesh_exit find_exact(struct cpu_state *cpu,
						 const struct frontend_key *k,
						 struct frontend *f)
{
	const struct frontend *from = find_frontend(cpu, k);

	return from ? exit_of(k, from, f) : EXIT_PASS_NO_VIP;
}

/*
 * find is the exit of a connection to k. Where k is no frontend, its address at
 * port 0 tells a service's undeclared port, and a workload with a waypoint, from
 * an unknown address. It does not for UDP: who declares ports need not have known
 * of datagrams, and they go to no waypoint.
 */
static __always_inline enum mesh_exit
find(struct cpu_state *cpu, const struct frontend_key *k, struct frontend *f)
{
	const struct frontend *from = find_frontend(cpu, k);
	struct frontend_key addr_only = *k;

	if (from)
		return exit_of(k, from, f);
	if (k->proto != IPPROTO_TCP)
		return EXIT_PASS_NO_VIP;
	addr_only.port = 0;
	from = find_frontend(cpu, &addr_only);
	return from ? exit_of(&addr_only, from, f) : EXIT_PASS_NO_VIP;
}

static __always_inline void try_choose(struct cpu_state *cpu,
				       const struct frontend_key *k,
				       struct choice *c)
{
	struct frontend f;

	c->exit = find(cpu, k, &f);
	if (c->exit == EXIT_REDIRECT || c->exit == EXIT_REDIRECT_WAYPOINT)
		choose_slot(cpu, &f, c);
}

static __always_inline void
choose(struct cpu_state *cpu, const struct frontend_key *k, struct choice *c)
{
	try_choose(cpu, k, c);
	if (c->exit != EVENT_RETRY)
		return;
	count(cpu, EVENT_RETRY);
	try_choose(cpu, k, c);
	if (c->exit == EVENT_RETRY)
		c->exit = EXIT_REFUSE_SLOT_MISS;
}

#endif
