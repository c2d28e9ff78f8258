/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The client's end of a hand-off by a header: where the waypoint runs no program of
 * ours, a connection's destination goes in front of its first bytes.
 *
 *	PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, 2.2): 12 bytes
 *	of signature, version and command, family, length, both addresses, ports
 *
 *	Kmesh: type 1, length, address, port; then type 0xfe, length 0. Lengths are
 *	four bytes in network byte order. The form is that of the socket's family:
 *	an IPv6 socket sends an IPv4 address as v4-mapped
 *
 * An established socket goes into the sockhash unsent, by which its sends pass
 * mesh_first_bytes. That writes the header; then, in the same send, the kernel asks
 * for header options, and the socket leaves unsent. In there it would cost each
 * send something, and a blocking read would return EAGAIN where it is woken without
 * data, as after shutdown(SHUT_WR).
 */
#ifndef MESH_HEADER_H
#define MESH_HEADER_H

#include "sockops.h"

enum header_length {
	TLV_V4 = 16,
	PROXY_V4 = 28,
	TLV_V6 = 28,
	PROXY_V6 = 52,
	HEADER_SPACE = 52,
};

static __always_inline struct handoff *header_of(struct bpf_sock_ops *ctx)
{
	struct handoff *h = kept_handoff(ctx);

	return h && h->codec ? h : NULL;
}

/* begin_header is called before the SYN is made. See begin_handoff(). */
static __always_inline void begin_header(struct bpf_sock_ops *ctx)
{
	struct handoff *h = header_of(ctx);

	if (!h || h->state != HANDOFF_ASKED || !goes_to(ctx, &h->origin))
		return;
	h->state = HANDOFF_CONNECTING;
	set_callbacks(ctx, CLOSES, 0);
}

static __always_inline void miss(struct handoff *h, __u32 event)
{
	h->state = HANDOFF_MISSED;
	count_event(event);
}

/* await_first_bytes is called when the SYN-ACK has come. */
static __always_inline void await_first_bytes(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct handoff *h;

	if (!(ctx->bpf_sock_ops_cb_flags & CLOSES))
		return;
	h = header_of(ctx);
	if (!h || h->state != HANDOFF_CONNECTING)
		return;
	h->state = HANDOFF_UNSENT;
	if (ctx->data_segs_out) /* in the SYN */
		miss(h, EVENT_HANDOFF_EARLY);
	else if (bpf_sock_hash_update(ctx, &unsent, &cookie, BPF_NOEXIST))
		miss(h, EVENT_HANDOFF_UNWRITTEN);
	if (h->state == HANDOFF_UNSENT)
		set_callbacks(ctx, WRITES, 0);
	else
		set_callbacks(ctx, 0, CLOSES);
}

/*
 * leave has the socket be a plain one again, when the send that holds it in unsent
 * returns, or at once.
 */
static __always_inline void leave(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&unsent, &cookie);
	set_callbacks(ctx, 0, WRITES | CLOSES);
}

/* is_send is true where the kernel asks since the application sends something. */
static __always_inline bool is_send(struct bpf_sock_ops *ctx)
{
	return ctx->args[0] == BPF_WRITE_HDR_TCP_CURRENT_MSS || ctx->skb_len;
}

/*
 * end_await is called for each packet, and in each send before its first one: after
 * mesh_first_bytes, if that saw the send. It did not see one that began before the
 * socket was established.
 */
static __always_inline void end_await(struct bpf_sock_ops *ctx)
{
	struct handoff *h = header_of(ctx);

	if (!h)
		return;
	if (h->state == HANDOFF_UNSENT && is_send(ctx))
		miss(h, EVENT_HANDOFF_EARLY);
	if (h->state != HANDOFF_UNSENT)
		leave(ctx);
}

/*
 * end_silent is called when the socket's state changes: before it is established, and
 * when it ends.
 */
static __always_inline void end_silent(struct bpf_sock_ops *ctx)
{
	struct handoff *h = header_of(ctx);
	__u32 state = ctx->args[1];

	if (!h)
		return;
	if (h->state == HANDOFF_CONNECTING && state == BPF_TCP_CLOSE) {
		miss(h, EVENT_HANDOFF_UNREACHED);
		set_callbacks(ctx, 0, CLOSES);
	}
	if (h->state == HANDOFF_UNSENT && state != BPF_TCP_CLOSE_WAIT) {
		miss(h, EVENT_HANDOFF_SILENT);
		leave(ctx);
	}
}

static __always_inline __u32 put_tlv(__u8 b[HEADER_SPACE],
				     const struct origin *to, bool v4)
{
	__u32 n = v4 ? 4 : 16;

	b[0] = 0x01;
	b[4] = n + 2;
	if (v4) {
		__builtin_memcpy(b + 5, &to->asked[3], 4);
		__builtin_memcpy(b + 9, &to->asked_port, 2);
		b[11] = 0xfe;
		return TLV_V4;
	}
	__builtin_memcpy(b + 5, to->asked, 16);
	__builtin_memcpy(b + 21, &to->asked_port, 2);
	b[23] = 0xfe;
	return TLV_V6;
}

/* put_proxy: the source is the socket's own address. */
static __always_inline __u32 put_proxy(__u8 b[HEADER_SPACE],
				       const struct sk_msg_md *msg,
				       const struct origin *to)
{
	const __be32 from[4] = { msg->local_ip6[0], msg->local_ip6[1],
				 msg->local_ip6[2], msg->local_ip6[3] };
	__be32 from4 = msg->local_ip4;
	__be16 port = bpf_htons(msg->local_port);

	/* All are read before the choice: the verifier follows no changed ctx. */
	barrier_var(from4);
	barrier_var(port);
	__builtin_memcpy(b, "\r\n\r\n\0\r\nQUIT\n", 12);
	b[12] = 0x21; /* version 2, PROXY */
	if (is_v4(to->asked)) {
		b[13] = 0x11; /* TCP over IPv4 */
		b[15] = PROXY_V4 - 16;
		__builtin_memcpy(b + 16, &from4, 4);
		__builtin_memcpy(b + 20, &to->asked[3], 4);
		__builtin_memcpy(b + 24, &port, 2);
		__builtin_memcpy(b + 26, &to->asked_port, 2);
		return PROXY_V4;
	}
	b[13] = 0x21; /* TCP over IPv6 */
	b[15] = PROXY_V6 - 16;
	__builtin_memcpy(b + 16, from, 16);
	__builtin_memcpy(b + 32, to->asked, 16);
	__builtin_memcpy(b + 48, &port, 2);
	__builtin_memcpy(b + 50, &to->asked_port, 2);
	return PROXY_V6;
}

/* copy_in puts n bytes where the message begins; false where it has no room. */
static __always_inline bool copy_in(struct sk_msg_md *msg,
				    const __u8 b[HEADER_SPACE], __u32 n)
{
	__u8 *to = msg->data;
	const void *end = msg->data_end;

	if (n == TLV_V4 && (void *)(to + TLV_V4) <= end)
		__builtin_memcpy(to, b, TLV_V4);
	else if (n == PROXY_V4 && (void *)(to + PROXY_V4) <= end)
		__builtin_memcpy(to, b, PROXY_V4);
	else if (n == PROXY_V6 && (void *)(to + PROXY_V6) <= end)
		__builtin_memcpy(to, b, PROXY_V6);
	else
		return false;
	return true;
}

/* write_header lets a send without its header fail; the next one tries again. */
static __always_inline int write_header(struct sk_msg_md *msg)
{
	__u8 b[HEADER_SPACE] = {};
	struct bpf_sock *sk = msg->sk;
	struct handoff *h;
	__u32 n;

	h = sk ? bpf_sk_storage_get(&handoffs, sk, NULL, 0) : NULL;
	if (!h || h->state != HANDOFF_UNSENT)
		return SK_PASS;
	if (h->codec == FRONTEND_KMESH_TLV)
		n = put_tlv(b, &h->origin, msg->family == AF_INET);
	else
		n = put_proxy(b, msg, &h->origin);
	if (bpf_msg_push_data(msg, 0, n, 0) ||
	    bpf_msg_pull_data(msg, 0, n, 0) || !copy_in(msg, b, n)) {
		count_event(EVENT_HANDOFF_UNWRITTEN);
		return SK_DROP;
	}
	h->state = HANDOFF_WRITTEN;
	count_event(EVENT_HANDOFF_HEADER);
	return SK_PASS;
}

#endif
