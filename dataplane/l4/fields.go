package l4

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// seeFields tells the programs where this kernel's sockets have what they look at.
// What it does not tell they do without.
func seeFields(spec *ebpf.CollectionSpec) error {
	types, err := kernel.Types().Kernel()
	if err != nil {
		return nil
	}
	values := map[string]any{}
	fastOpenIn(types, values)
	mptcpStateIn(types, values)
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// fastOpenIn finds what shows Fast Open. Where it is not known, a connection with data in
// its SYN is not refused at connect, but by the waypoint, and counted as HandoffEarly.
func fastOpenIn(types *btf.Spec, values map[string]any) {
	var sock *btf.Struct
	if err := types.TypeByName("tcp_sock", &sock); err != nil {
		return
	}
	message, connect := member(sock, "fastopen_req"), member(sock, "fastopen_connect")
	if message == nil || connect == nil {
		return
	}
	values[meshVarCfgFastMessage] = message.Offset.Bytes()
	values[meshVarCfgFastConnect] = uint32(connect.Offset / 8)
	values[meshVarCfgFastConnectBit] = uint8(1) << (connect.Offset % 8)
}

// mptcpStateIn finds what tells a further subflow of an MPTCP connection from the first. Where
// it is not known, one that goes where the first one went is taken for it.
func mptcpStateIn(types *btf.Spec, values map[string]any) {
	var sock *btf.Struct
	if err := types.TypeByName("mptcp_sock", &sock); err != nil {
		return
	}
	at := uint32(0)
	for _, name := range []string{"sk", "icsk_inet", "sk", "__sk_common"} {
		m := member(sock, name)
		if m == nil {
			return
		}
		inner, is := btf.UnderlyingType(m.Type).(*btf.Struct)
		if !is {
			return
		}
		at, sock = at+m.Offset.Bytes(), inner
	}
	if state := member(sock, "skc_state"); state != nil {
		values[meshVarCfgMptcpState] = at + state.Offset.Bytes()
	}
}

func member(s *btf.Struct, name string) *btf.Member {
	for i := range s.Members {
		if s.Members[i].Name == name {
			return &s.Members[i]
		}
	}
	return nil
}
