/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why packets were thrown away: the kernel's own reason (Linux 5.17). */
#ifndef DUOMESH_PROBE_DROP_H
#define DUOMESH_PROBE_DROP_H

static __always_inline void read_dropped(struct sighting *e,
					 const struct sk_buff *skb)
{
	const struct sock *sk = BPF_CORE_READ(skb, sk);

	if (!sk)
		return;
	e->sock = (__u64)sk;
	/* Of a request or a socket in TIME_WAIT it is the same member. */
	e->cookie = cookie_of(sk);
}

/* dropped takes the arguments of tracepoint kfree_skb: packet, place, reason. */
static __always_inline int dropped(__u64 *ctx)
{
	__u64 args[3] = {};
	const struct sk_buff *skb;
	struct sighting *e;
	__u32 *pod;

	bpf_probe_read_kernel(args, 2 * sizeof(args[0]), ctx);
	if (bpf_core_type_exists(enum skb_drop_reason))
		bpf_probe_read_kernel(&args[2], sizeof(args[2]), ctx + 2);
	skb = (void *)args[0];
	pod = pod_of(skb);
	if (!pod)
		return 0;
	e = new_trace(TRACE_DROP, *pod);
	if (!e)
		return 0;
	e->what = args[2];
	e->location = args[1];
	if (!read_packet(e, skb)) {
		bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
		return 0;
	}
	read_dropped(e, skb);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
