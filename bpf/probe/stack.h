/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which functions of the kernel a connection passes, by one program at all of
 * them: its cookie says which function it stands at, and what its arguments are.
 */
#ifndef DUOMESH_PROBE_STACK_H
#define DUOMESH_PROBE_STACK_H

/* Filled before load: where the processor's registers of arguments and of the
 * returned value are in struct pt_regs. */
const volatile __u32 cfg_args[4];
const volatile __u32 cfg_ret;

#define SHAPE_BITS \
	16 /* of a cookie: above them the shape, below the function */

static __always_inline __u64 register_at(const void *ctx, __u32 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), ctx + offset);
	return value;
}

static __always_inline struct sighting *new_trace(enum trace_kind kind,
						  __u32 pod)
{
	struct sighting *e = bpf_ringbuf_reserve(&trace_events, sizeof(*e), 0);
	__u32 zero = 0;

	if (!e) {
		__u64 *n = bpf_map_lookup_elem(&trace_full, &zero);

		if (n)
			__sync_fetch_and_add(n, 1);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = bpf_ktime_get_ns();
	e->kind = kind;
	e->pod = pod;
	return e;
}

static __always_inline void read_sock(struct sighting *e, const struct sock *sk)
{
	const struct inet_sock *inet = (const struct inet_sock *)sk;

	e->sock = (__u64)sk;
	e->cookie = cookie_of(sk);
	e->protocol = BPF_CORE_READ(sk, sk_protocol);
	e->sport = BPF_CORE_READ(inet, inet_sport);
	e->dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&e->src, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&e->dst, sk, __sk_common.skc_v6_daddr);
		return;
	}
	map4(e->src, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	map4(e->dst, BPF_CORE_READ(sk, __sk_common.skc_daddr));
}

/* sock_called reports a function that was called with a socket. */
static __always_inline void sock_called(const struct sock *sk, __u32 function,
					enum trace_shape shape)
{
	struct sighting *e;
	int state;
	__u32 *pod;

	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	state = state_of(sk);
	if (shape == SHAPE_TRANSMIT && state != TCP_SYN_SENT)
		return;
	if (shape != SHAPE_RETURN && state != TCP_SYN_SENT &&
	    state != TCP_CLOSE)
		return;
	pod = pod_of_netns(netns_of(sk));
	if (!pod)
		return;
	e = new_trace(TRACE_CALL, *pod);
	if (!e)
		return;
	e->what = function;
	read_sock(e, sk);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* turn makes the addresses of a packet that came in those of its socket. */
static __always_inline void turn(struct sighting *e)
{
	__be32 src[4];
	__be16 sport = e->sport;

	__builtin_memcpy(src, e->src, sizeof(src));
	__builtin_memcpy(e->src, e->dst, sizeof(src));
	__builtin_memcpy(e->dst, src, sizeof(src));
	e->sport = e->dport;
	e->dport = sport;
}

/* packet_called reports a function that was called with a packet that came in. On
 * the way to a listener it has no interface any more: the listener's namespace. */
static __always_inline void packet_called(const struct sk_buff *skb,
					  const struct sock *listener,
					  __u32 function,
					  enum trace_shape shape)
{
	__u32 *pod = listener ? pod_of_netns(netns_of(listener)) : pod_of(skb);
	struct sighting *e;

	if (!pod)
		return;
	e = new_trace(TRACE_CALL, *pod);
	if (!e)
		return;
	e->what = function;
	if (!read_packet(e, skb) || e->protocol != IPPROTO_TCP ||
	    (shape == SHAPE_SKB1 &&
	     !(e->flags & (TCP_FLAG_SYN_BYTE | TCP_FLAG_RST_BYTE)))) {
		bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
		return;
	}
	turn(e);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* called reports a call by its cookie. */
static __always_inline int called(__u64 cookie, const __u64 args[4])
{
	__u32 function = cookie & ((1 << SHAPE_BITS) - 1);
	enum trace_shape shape = cookie >> SHAPE_BITS;

	switch (shape) {
	case SHAPE_SOCKET:
		sock_called(BPF_CORE_READ((struct socket *)args[0], sk),
			    function, SHAPE_SOCK);
		break;
	case SHAPE_SOCK:
	case SHAPE_TRANSMIT:
	case SHAPE_RETURN:
		sock_called((void *)args[0], function, shape);
		break;
	case SHAPE_SKB1:
		packet_called((void *)args[0], NULL, function, shape);
		break;
	case SHAPE_SKB2:
		packet_called((void *)args[1], (void *)args[0], function,
			      shape);
		break;
	case SHAPE_SKB4:
		packet_called((void *)args[3], (void *)args[2], function,
			      shape);
		break;
	}
	return 0;
}

static __always_inline int called_by_registers(void *ctx)
{
	__u64 args[4] = {
		register_at(ctx, cfg_args[0]),
		register_at(ctx, cfg_args[1]),
		register_at(ctx, cfg_args[2]),
		register_at(ctx, cfg_args[3]),
	};

	return called(bpf_get_attach_cookie(ctx), args);
}

static __always_inline int returned_by_registers(void *ctx)
{
	__u64 args[4] = { register_at(ctx, cfg_ret) };

	return called(bpf_get_attach_cookie(ctx), args);
}

/* count_call counts, and whether a task of a watched namespace had the CPU. */
static __always_inline int count_call(__u64 function)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 index = function;
	struct trace_calls *n = bpf_map_lookup_elem(&trace_counts, &index);

	if (!n)
		return 0;
	__sync_fetch_and_add(&n->all, 1);
	if (pod_of_netns(BPF_CORE_READ(task, nsproxy, net_ns, net_cookie)))
		__sync_fetch_and_add(&n->watched, 1);
	return 0;
}

#endif
