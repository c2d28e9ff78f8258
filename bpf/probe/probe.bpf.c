// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The judge's programs. Each way to see an event is a program of its own, loaded
 * alone, so that one that a kernel refuses does not take the others along.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "consts.h"
#include "abi.h"
#include "maps.h"
#include "asked.h"
#include "sock.h"
#include "state.h"
#include "syscall.h"
#include "function.h"
#include "wire.h"

/* Types that Go needs and that no map names: a mention keeps them in BTF. */
const struct event *mention_event __attribute__((unused));
const enum hook *mention_hook __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int asked_connect4(struct bpf_sock_addr *ctx)
{
	return asked4(ctx, HOOK_CONNECT);
}

SEC("cgroup/connect6")
int asked_connect6(struct bpf_sock_addr *ctx)
{
	return asked6(ctx, HOOK_CONNECT);
}

SEC("cgroup/sendmsg4")
int asked_sendmsg4(struct bpf_sock_addr *ctx)
{
	return asked4(ctx, HOOK_SENDMSG);
}

SEC("cgroup/sendmsg6")
int asked_sendmsg6(struct bpf_sock_addr *ctx)
{
	return asked6(ctx, HOOK_SENDMSG);
}

SEC("cgroup/sock_release")
int on_sock_release(struct bpf_sock *ctx)
{
	return released(ctx);
}

SEC("tracepoint/syscalls/sys_enter_connect")
int on_enter_connect(struct trace_event_raw_sys_enter *ctx)
{
	syscall_asked(ctx->args[0], (const void *)ctx->args[1]);
	return 0;
}

/* address_of reads the first argument of a typed tracepoint as a number: the
 * verifier allows no arithmetic with the typed pointer. */
static __always_inline const struct sock *address_of(unsigned long long *ctx)
{
	const struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), ctx);
	return sk;
}

/* on_state_btf makes the cookie of a socket that has none. */
static __always_inline int on_state_btf(struct sock *typed,
					const struct sock *sk, int old, int new)
{
	struct event *e = on_state(sk, old, new);

	if (!e)
		return 0;
	e->cookie = bpf_get_socket_cookie(typed);
	submit(e);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_btf, struct sock *typed, int old, int new)
{
	const struct sock *sk = address_of(ctx);

	take(sk, old, new);
	return on_state_btf(typed, sk, old, new);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_btf_again, struct sock *typed, int old, int new)
{
	const struct sock *sk = address_of(ctx);

	return missed(sk, old, new) ? on_state_btf(typed, sk, old, new) : 0;
}

static __always_inline int on_state_raw(const struct sock *sk, int old, int new)
{
	struct event *e = on_state(sk, old, new);

	if (!e)
		return 0;
	e->cookie = cookie_of(sk);
	submit(e);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int state_raw(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (const struct sock *)ctx->args[0];

	take(sk, ctx->args[1], ctx->args[2]);
	return on_state_raw(sk, ctx->args[1], ctx->args[2]);
}

SEC("raw_tp/inet_sock_set_state")
int state_raw_again(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (const struct sock *)ctx->args[0];

	if (!missed(sk, ctx->args[1], ctx->args[2]))
		return 0;
	return on_state_raw(sk, ctx->args[1], ctx->args[2]);
}

/*
 * The same by the function that changes a connection's state. At its entry the
 * socket still has the old one.
 */
SEC("fentry/tcp_set_state")
int BPF_PROG(state_fentry, struct sock *typed, int new)
{
	const struct sock *sk = address_of(ctx);
	int old = state_of(sk);

	take(sk, old, new);
	return on_state_btf(typed, sk, old, new);
}

SEC("fentry/tcp_set_state")
int BPF_PROG(state_fentry_again, struct sock *typed, int new)
{
	const struct sock *sk = address_of(ctx);
	int old = state_of(sk);

	return missed(sk, old, new) ? on_state_btf(typed, sk, old, new) : 0;
}

SEC("kprobe/tcp_set_state")
int state_kprobe(struct pt_regs *ctx)
{
	const struct sock *sk = (const struct sock *)argument(ctx, cfg_arg1);

	return on_state_raw(sk, state_of(sk), argument(ctx, cfg_arg2));
}

SEC("kprobe.multi/tcp_set_state")
int state_multi(struct pt_regs *ctx)
{
	const struct sock *sk = (const struct sock *)argument(ctx, cfg_arg1);

	return on_state_raw(sk, state_of(sk), argument(ctx, cfg_arg2));
}

SEC("fentry/__inet_stream_connect")
int BPF_PROG(connect_fentry, struct socket *socket, struct sockaddr *to)
{
	function_asked(BPF_CORE_READ(socket, sk), BPF_CORE_READ(socket, state),
		       to, bpf_get_socket_cookie(socket->sk));
	return 0;
}

SEC("kprobe/__inet_stream_connect")
int connect_kprobe(struct pt_regs *ctx)
{
	return connect_raw(ctx);
}

SEC("kprobe.multi/__inet_stream_connect")
int connect_multi(struct pt_regs *ctx)
{
	return connect_raw(ctx);
}

SEC("tcx/ingress")
int wire_ingress(struct __sk_buff *skb)
{
	return on_wire(skb, link_of(skb), HOOK_INGRESS);
}

SEC("tcx/egress")
int wire_egress(struct __sk_buff *skb)
{
	return on_wire(skb, link_of(skb), HOOK_EGRESS);
}

SEC("tc")
int filter_ingress(struct __sk_buff *skb)
{
	return on_wire(skb, class_link_of(skb), HOOK_INGRESS);
}

SEC("tc")
int filter_egress(struct __sk_buff *skb)
{
	return on_wire(skb, class_link_of(skb), HOOK_EGRESS);
}
