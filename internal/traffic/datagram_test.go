package traffic

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// mustServeUDP starts a server named "srv" on a UDP port of all addresses.
func mustServeUDP(t *testing.T) (*RemoteServer, uint16, *lines) {
	t.Helper()
	free, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.LocalAddr().(*net.UDPAddr).Port)
	free.Close()
	seen := new(lines)
	s, err := StartServer(testContext(t), launch, ServerConfig{Name: "srv", UDP: []uint16{port}}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close server: %v", err)
		}
	})
	return s, port, seen
}

func TestDatagrams(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		for _, unconnected := range []bool{false, true} {
			name := addr + " connected"
			if unconnected {
				name = addr + " unconnected"
			}
			t.Run(name, func(t *testing.T) {
				s, port, seen := mustServeUDP(t)
				l := Load{
					To: at(addr, port), Connections: 500, Workers: 4, Bytes: 100, FirstID: 1,
					UDP: true, Unconnected: unconnected, Datagrams: 3,
				}
				conns, err := RunClient(testContext(t), launch, l, nil)
				if err != nil {
					t.Fatal(err)
				}
				mustSync(t, s)
				joinDatagrams(t, l, conns, seen.get())
			})
		}
	}
}

func joinDatagrams(t *testing.T, l Load, clients, servers []Conn) {
	t.Helper()
	byID := map[uint64]Conn{}
	for _, s := range servers {
		byID[s.ID] = s
	}
	if len(servers) != l.Connections || len(byID) != l.Connections || len(clients) != l.Connections {
		t.Fatalf("%d sockets of clients, %d lines of the server for %d IDs, want %d", len(clients), len(servers), len(byID), l.Connections)
	}
	for _, c := range clients {
		s := byID[c.ID]
		if c.Errno != "" || c.Server != "srv" || c.From != l.To || c.Cookie == 0 || s.Cookie == 0 {
			t.Fatalf("client %+v, server %+v", c, s)
		}
		if c.Datagrams != 3 || s.Datagrams != 3 || c.Sent != 300 || c.Received != 300 || s.Sent != 300 || s.Received != 300 {
			t.Fatalf("datagrams were lost: client %+v, server %+v", c, s)
		}
		if unmap(c.Local) != s.Peer || unmap(c.Asked) != s.Local || (c.Peer == l.To) == l.Unconnected {
			t.Fatalf("the ends tell different addresses: %+v, %+v", c, s)
		}
	}
}

func TestNobodyAnswersDatagrams(t *testing.T) {
	conns, err := RunClient(testContext(t), launch, Load{To: at("127.0.0.1", 9), Connections: 2, UDP: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if c.Op != "recvfrom" || c.Errno != "ECONNREFUSED" || c.Datagrams != 1 || c.Server != "" {
			t.Errorf("%+v, want a refusal of the answer", c)
		}
	}
}

// A server that stands in for two: its answers change their name, or their bytes.
func TestWrongAnswers(t *testing.T) {
	for want, answer := range map[string]func(i int, in []byte) []byte{
		"EXDEV": func(i int, in []byte) []byte {
			return append([]byte{1, 'a' + byte(i)}, in[headerLen:]...)
		},
		"EBADMSG": func(_ int, in []byte) []byte { return append([]byte{1, 'a', '!'}, in[headerLen+1:]...) },
	} {
		t.Run(want, func(t *testing.T) {
			liar, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at("127.0.0.1", 0)))
			if err != nil {
				t.Fatal(err)
			}
			defer liar.Close()
			go func() {
				in := make([]byte, 2000)
				for i := 0; ; i++ {
					n, from, err := liar.ReadFromUDPAddrPort(in)
					if err != nil {
						return
					}
					liar.WriteToUDPAddrPort(answer(i, in[:n]), from)
				}
			}()
			to := liar.LocalAddr().(*net.UDPAddr).AddrPort()
			l := Load{To: to, Connections: 1, Bytes: 8, UDP: true, Unconnected: true, Datagrams: 2}
			conns, err := RunClient(testContext(t), launch, l, nil)
			if err != nil {
				t.Fatal(err)
			}
			if conns[0].Errno != want {
				t.Errorf("%+v, want %s", conns[0], want)
			}
		})
	}
}

// A server tells of a socket whose last datagram never came when it is asked, and
// keeps silent to strangers.
func TestUnfinishedSocket(t *testing.T) {
	s, port, seen := mustServeUDP(t)
	c, err := net.Dial("udp", at("127.0.0.1", port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, headerLen+4)
	for _, size := range []int{5, 4} { // the first is not of this package
		putHeader(b, 77, size)
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(b); err != nil || n != 1+len("srv")+4 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	mustSync(t, s)
	got := seen.get()
	if len(got) != 1 || got[0].ID != 77 || got[0].Datagrams != 1 || got[0].Local != at("127.0.0.1", port) {
		t.Errorf("%+v", got)
	}
}

func TestDatagramLoads(t *testing.T) {
	to := netip.MustParseAddrPort("127.0.0.1:9")
	for _, l := range []Load{
		{To: to, UDP: true, Bytes: MaxDatagram + 1},
		{To: to, Unconnected: true},
		{To: to, Datagrams: 2},
		{To: to, UDP: true, Datagrams: -1},
	} {
		if l.Check() == nil {
			t.Errorf("%+v is taken", l)
		}
	}
	if _, ok := packetInfo([]byte{1, 2, 3}); ok {
		t.Error("an address was read from noise")
	}
}
