/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the judge's programs and internal/probe agree on. Go gets these types
 * from BTF (bpf2go -type), so nothing here is typed twice.
 *
 * Addresses are 16 bytes in network byte order; IPv4 is v4-mapped. A field that
 * a program cannot see is 0, and 0 is never a value of that field.
 */
#ifndef DUOMESH_PROBE_ABI_H
#define DUOMESH_PROBE_ABI_H

enum event_kind {
	EVENT_ASKED,	/* an application asked for a destination */
	EVENT_SYN_SENT, /* a socket began to connect; its port is not chosen yet */
	EVENT_ESTABLISHED, /* old_state tells active from passive */
	EVENT_CLOSED,	   /* the socket's state became TCP_CLOSE */
	EVENT_RELEASED,	   /* an application let go of a socket */
	EVENT_WIRE_SYN,	   /* a SYN passed an interface */
	EVENT_KINDS,
};

/* Where in the kernel an event was seen. */
enum hook {
	HOOK_CONNECT = 1,
	HOOK_SENDMSG,
	HOOK_SYSCALL,
	HOOK_STATE,
	HOOK_RELEASE,
	HOOK_INGRESS,
	HOOK_EGRESS,
	HOOK_FUNCTION,
};

struct event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 cookie;  /* socket cookie */
	__u64 sock;    /* address of the struct sock; of the judge's use only */
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 isn;  /* EVENT_WIRE_SYN: initial sequence number, host order */
	__u32 pod;  /* number that user space gave the pod */
	__u32 link; /* EVENT_WIRE_SYN: number that user space gave the link */
	__u16 protocol; /* IPPROTO_*; 262 is MPTCP */
	__u16 err;	/* EVENT_CLOSED: sk_err; 0 is no error */
	__u8 kind;	/* enum event_kind */
	__u8 hook;	/* enum hook */
	__u8 family;	/* of the socket: AF_INET or AF_INET6 */
	__u8 old_state; /* TCP state before the event; EVENT_RELEASED: at it */
};
_Static_assert(sizeof(struct event) == 80, "event is ABI");

/* A link is known by its interface and the namespace it is in: interface
 * numbers repeat in every namespace. */
struct link_key {
	__u64 netns; /* cookie */
	__u32 ifindex;
	__u32 pad; /* always 0: hash keys are compared as bytes */
};
_Static_assert(sizeof(struct link_key) == 16, "link_key is ABI");

/* What one hook of a link has seen in all, as wire_value counts packets: begun
 * before a packet is counted in wire, done after. Whoever empties or changes wire
 * leaves a sum that does not lie between the two. */
struct link_total {
	__u64 begun;
	__u64 done;
};

struct link_value {
	__u32 link;
	__u32 pod;
	struct link_total ingress;
	struct link_total egress;
};

struct wire_key {
	__u32 link;
	__be32 dst[4];
	__be16 dport; /* 0: a port that no SYN opened here, or none at all */
	__u8 protocol;
	__u8 hook; /* HOOK_INGRESS or HOOK_EGRESS */
};
_Static_assert(sizeof(struct wire_key) == 24, "wire_key is ABI");

struct wire_value {
	__u64 packets; /* as segments on the wire: a GSO packet counts each */
	__u64 syns;    /* SYN without ACK, retransmissions too */
};

struct named_key {
	__be32 dst[4];
	__be16 dport;
	__u16 pad; /* always 0 */
};
_Static_assert(sizeof(struct named_key) == 20, "named_key is ABI");

/* Counters beside the ring. */
enum counter {
	COUNTER_WIRE_FULL, /* packets that found no room in wire */
	COUNTER_UNPARSED,  /* packets counted by address alone: IPv6 extension
			    * headers, later fragments, cut headers */
	COUNTER_RESCUED,   /* changes of state that the first copy of the
			    * program missed and the second one took */
	COUNTERS,
};

#endif
