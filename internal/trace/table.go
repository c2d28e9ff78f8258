package trace

// function is one that a connection passes on its way, and what its arguments are.
type function struct {
	name  string
	shape traceTraceShape
}

// onTheWay are the functions between connect() and accept(), as net/ipv4 and
// net/ipv6 of the kernel have them. One that a kernel lacks is left out, and said.
var onTheWay = []function{
	{"__inet_stream_connect", traceTraceShapeSHAPE_SOCKET},
	{"tcp_v4_connect", traceTraceShapeSHAPE_SOCK},
	{"tcp_v6_connect", traceTraceShapeSHAPE_SOCK},
	{"tcp_connect", traceTraceShapeSHAPE_SOCK},
	{"ip_queue_xmit", traceTraceShapeSHAPE_TRANSMIT},
	{"inet6_csk_xmit", traceTraceShapeSHAPE_TRANSMIT},
	{"tcp_v4_rcv", traceTraceShapeSHAPE_SKB1},
	{"tcp_v6_rcv", traceTraceShapeSHAPE_SKB1},
	{"tcp_conn_request", traceTraceShapeSHAPE_SKB4},
	{"tcp_finish_connect", traceTraceShapeSHAPE_SOCK},
	{"tcp_reset", traceTraceShapeSHAPE_SOCK},
	{"tcp_v4_syn_recv_sock", traceTraceShapeSHAPE_SKB2},
	{"tcp_v6_syn_recv_sock", traceTraceShapeSHAPE_SKB2},
	{"inet_csk_accept", traceTraceShapeSHAPE_RETURN},
}

func (f function) atReturn() bool { return f.shape == traceTraceShapeSHAPE_RETURN }

// cookie is what the program at the function learns: bpf/probe/stack.h.
func (f function) cookie(index int) uint64 {
	const shapeBits = 16
	return uint64(f.shape)<<shapeBits | uint64(index)
}
