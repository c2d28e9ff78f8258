// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Engine 1: where a connection goes is decided at connect(). */
#include "abi.h"
#include "decide.h"

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = {
		.addr = { 0, 0, bpf_htonl(0xffff), 0 },
		.proto = IPPROTO_TCP,
	};
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int exit;

	if (!cpu)
		return 1;
	exit = untouched(ctx);
	if (exit >= 0) {
		count(cpu, exit);
		return 1;
	}
	key.addr[3] = ctx->user_ip4;
	key.port = ctx->user_port;
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
	struct frontend_key key = { .proto = IPPROTO_TCP };
	struct cpu_state *cpu = this_cpu();
	struct choice to = {};
	int exit;

	if (!cpu)
		return 1;
	exit = untouched(ctx);
	if (exit >= 0) {
		count(cpu, exit);
		return 1;
	}
	key.addr[0] = ctx->user_ip6[0];
	key.addr[1] = ctx->user_ip6[1];
	key.addr[2] = ctx->user_ip6[2];
	key.addr[3] = ctx->user_ip6[3];
	key.port = ctx->user_port;
	decide(ctx, cpu, &key, &to);
	if (!to.addr)
		return finish(to.exit);
	ctx->user_ip6[0] = to.addr[0];
	ctx->user_ip6[1] = to.addr[1];
	ctx->user_ip6[2] = to.addr[2];
	ctx->user_ip6[3] = to.addr[3];
	ctx->user_port = to.port;
	return 1;
}

SEC("cgroup/getpeername4")
int mesh_getpeername4(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };
	const struct origin *o = asked_for(ctx, addr, ctx->user_port);

	if (o) {
		ctx->user_ip4 = o->asked[3];
		ctx->user_port = o->asked_port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int mesh_getpeername6(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1],
				 ctx->user_ip6[2], ctx->user_ip6[3] };
	const struct origin *o = asked_for(ctx, addr, ctx->user_port);

	if (o) {
		ctx->user_ip6[0] = o->asked[0];
		ctx->user_ip6[1] = o->asked[1];
		ctx->user_ip6[2] = o->asked[2];
		ctx->user_ip6[3] = o->asked[3];
		ctx->user_port = o->asked_port;
	}
	return 1;
}

SEC("cgroup/sock_release")
int mesh_sock_release(struct bpf_sock *ctx)
{
	give_back(bpf_get_socket_cookie(ctx));
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
