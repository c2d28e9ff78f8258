/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tracing programs and internal/trace agree on. They are objects of their
 * own: a kernel without kprobes still opens the judge.
 *
 * Addresses are 16 bytes in network byte order; IPv4 is v4-mapped.
 */
#ifndef DUOMESH_PROBE_TRACE_H
#define DUOMESH_PROBE_TRACE_H

enum trace_kind {
	TRACE_CALL, /* a function of the kernel was called */
	TRACE_DROP, /* a packet was thrown away */
};

/* What a function's arguments are. */
enum trace_shape {
	SHAPE_SOCKET,	/* struct socket * first: an application connects */
	SHAPE_SOCK,	/* struct sock * first, of a socket that connects */
	SHAPE_TRANSMIT, /* the same, where SYNs alone matter */
	SHAPE_SKB1,	/* struct sk_buff * first: SYN and RST matter */
	SHAPE_SKB2,	/* a listener first, struct sk_buff * second */
	SHAPE_SKB4,	/* the same third and fourth */
	SHAPE_RETURN,	/* returns struct sock *, accepted */
};

struct sighting {
	__u64 time_ns;	/* CLOCK_MONOTONIC */
	__u64 sock;	/* address of the struct sock, 0 where there is none */
	__u64 cookie;	/* socket cookie, 0: nobody has asked for it */
	__u64 location; /* TRACE_DROP: address of the instruction */
	__be32 src[4]; /* TRACE_CALL: of the socket; TRACE_DROP: of the packet */
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 pod;  /* number that user space gave the pod */
	__u32 what; /* TRACE_CALL: function; TRACE_DROP: enum skb_drop_reason */
	__u16 protocol;
	__u8 kind;  /* enum trace_kind */
	__u8 flags; /* TCP flags of the packet, where there is one */
};
_Static_assert(sizeof(struct sighting) == 80, "sighting is ABI");

struct trace_link {
	__u64 netns; /* cookie */
	__u32 ifindex;
	__u32 pad; /* always 0 */
};

/* Calls of one function. */
struct trace_calls {
	__u64 all;
	__u64 watched; /* while a task of a watched namespace had the CPU */
};

#endif
