// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Engine 1: where a connection goes is decided at connect(), and where a datagram
 * of an unconnected socket goes at sendmsg().
 */
#include "abi.h"
#include "answer.h"
#include "decide.h"
#include "end.h"
#include "header.h"
#include "prepare.h"
#include "send.h"

static __always_inline void key4(struct frontend_key *k,
				 const struct bpf_sock_addr *ctx)
{
	k->addr[2] = bpf_htonl(0xffff);
	k->addr[3] = ctx->user_ip4;
	k->port = ctx->user_port;
}

static __always_inline void key6(struct frontend_key *k,
				 const struct bpf_sock_addr *ctx)
{
	k->addr[0] = ctx->user_ip6[0];
	k->addr[1] = ctx->user_ip6[1];
	k->addr[2] = ctx->user_ip6[2];
	k->addr[3] = ctx->user_ip6[3];
	k->port = ctx->user_port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx,
				   const __be32 addr[4], __be16 port)
{
	ctx->user_ip6[0] = addr[0];
	ctx->user_ip6[1] = addr[1];
	ctx->user_ip6[2] = addr[2];
	ctx->user_ip6[3] = addr[3];
	ctx->user_port = port;
}

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .proto = protocol(ctx) };
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int exit;

	if (!cpu)
		return 1;
	exit = untouched(ctx, key.proto);
	key4(&key, ctx);
	if (exit >= 0)
		return pass(ctx, cpu, &key, exit);
	decide(ctx, cpu, &key, &to);
	if (!to.addr)
		return finish(to.exit);
	ctx->user_ip4 = to.addr[3];
	ctx->user_port = to.port;
	return 1;
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .proto = protocol(ctx) };
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int exit;

	if (!cpu)
		return 1;
	exit = untouched(ctx, key.proto);
	key6(&key, ctx);
	if (exit >= 0)
		return pass(ctx, cpu, &key, exit);
	decide(ctx, cpu, &key, &to);
	if (!to.addr)
		return finish(to.exit);
	write6(ctx, to.addr, to.port);
	return 1;
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .proto = IPPROTO_UDP };
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int verdict;

	if (!cpu || is_to_peer(ctx))
		return 1;
	key4(&key, ctx);
	verdict = decide_send(ctx, cpu, &key, &to);
	if (!to.addr)
		return verdict;
	ctx->user_ip4 = to.addr[3];
	ctx->user_port = to.port;
	return 1;
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .proto = IPPROTO_UDP };
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int verdict;

	if (!cpu)
		return 1;
	key6(&key, ctx);
	verdict = decide_send(ctx, cpu, &key, &to);
	if (!to.addr)
		return verdict;
	write6(ctx, to.addr, to.port);
	return 1;
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };
	struct answered a = {};

	find_answered(ctx, addr, ctx->user_port, &a);
	if (a.asked) {
		ctx->user_ip4 = a.asked[3];
		ctx->user_port = a.port;
	}
	return 1;
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1],
				 ctx->user_ip6[2], ctx->user_ip6[3] };
	struct answered a = {};

	find_answered(ctx, addr, ctx->user_port, &a);
	if (a.asked)
		write6(ctx, a.asked, a.port);
	return 1;
}

SEC("cgroup/getpeername4")
int mesh_getpeername4(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };
	struct answered a = {};

	asked_for(ctx, addr, ctx->user_port, &a);
	if (a.asked) {
		ctx->user_ip4 = a.asked[3];
		ctx->user_port = a.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int mesh_getpeername6(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1],
				 ctx->user_ip6[2], ctx->user_ip6[3] };
	struct answered a = {};

	asked_for(ctx, addr, ctx->user_port, &a);
	if (a.asked)
		write6(ctx, a.asked, a.port);
	return 1;
}

SEC("cgroup/sock_release")
int mesh_sock_release(struct bpf_sock *ctx)
{
	give_back(bpf_get_socket_cookie(ctx));
	return 1;
}

SEC("sockops")
int mesh_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		begin_handoff(ctx);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		reserve_option(ctx);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write_option(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		end_or_repeat(ctx);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		end_repeat(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		prepare_listener(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accept_handoff(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		end_unreached(ctx);
		break;
	}
	return 1;
}

/* Beside mesh_sockops, if a waypoint wants headers. */
SEC("sockops")
int mesh_header(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		begin_header(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		await_first_bytes(ctx);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		end_await(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		end_silent(ctx);
		break;
	}
	return 1;
}

SEC("sk_msg")
int mesh_first_bytes(struct sk_msg_md *msg)
{
	return write_header(msg);
}

SEC("cgroup/getsockopt")
int mesh_getsockopt(struct bpf_sockopt *ctx)
{
	if (!answer_option(ctx) && ctx->optlen > LARGEST_OPTION)
		ctx->optlen = 0; /* the kernel's answer is left as it is */
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
