package istiod

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// This program is also a name server, and one that asks, as children in pods.
const (
	nameServerEnv = "DUOMESH_TEST_NAME_SERVER" // the address that it answers with
	namePortEnv   = "DUOMESH_TEST_NAME_PORT"
	askNameEnv    = "DUOMESH_TEST_ASK_NAME" // "udp" or "tcp"
	nameVIP       = "10.96.220.1"
	askedName     = "web.default.svc.cluster.local"
)

func nameChild() (func() error, bool) {
	if answer := os.Getenv(nameServerEnv); answer != "" {
		return func() error { return serveNames(netip.MustParseAddr(answer), os.Getenv(namePortEnv)) }, true
	}
	if network := os.Getenv(askNameEnv); network != "" {
		return func() error { return askName(network) }, true
	}
	return nil, false
}

// serveNames answers every question for an address with one, by UDP and TCP.
func serveNames(a netip.Addr, port string) error {
	udp, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go overTCP(conn, a)
		}
	}()
	buf := make([]byte, 1500)
	for {
		n, from, err := udp.ReadFrom(buf)
		if err != nil {
			return err
		}
		if out, err := answerName(buf[:n], a); err == nil {
			udp.WriteTo(out, from)
		}
	}
}

func overTCP(conn net.Conn, a netip.Addr) {
	defer conn.Close()
	for {
		var size uint16
		if binary.Read(conn, binary.BigEndian, &size) != nil {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		out, err := answerName(query, a)
		if err != nil {
			return
		}
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

func answerName(query []byte, a netip.Addr) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	return m.Pack()
}

// askName resolves a name by the server behind the virtual address.
func askName(network string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, net.JoinHostPort(nameVIP, "53"))
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip4", askedName+".")
	fmt.Fprintln(os.Stdout, addrs)
	return err
}

const nameService = `
apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  clusterIP: ` + nameVIP + `
  selector: {app: names}
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 8053}
  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 8053}
`

// startNames starts a name server in the pod of that name; the caller stops it.
func startNames(ctx SpecContext, c *netsim.Cluster, answer, port string) *netsim.Process {
	GinkgoHelper()
	return must(c.Start(ctx, "names", netsim.Command{
		Argv: []string{"names"}, Path: "/proc/self/exe", Env: []string{nameServerEnv + "=" + answer, namePortEnv + "=" + port},
	}))
}

var _ = Describe("a name server behind a virtual address", func() {
	It("is asked by UDP and by TCP", func(ctx SpecContext) {
		const answer = "10.96.0.99"
		t := fleet()
		t.Nodes[1].Pods = append(t.Nodes[1].Pods, scenario.Pod{Name: "names"})
		c := cluster(ctx, t)
		ask := func(network string) (string, error) {
			var out bytes.Buffer
			p, err := c.Start(ctx, "client", netsim.Command{
				Argv: []string{"ask"}, Path: "/proc/self/exe", Env: []string{askNameEnv + "=" + network}, Stdout: &out,
			})
			if err != nil {
				return "", err
			}
			err = p.Wait()
			return out.String(), err
		}
		server := startNames(ctx, c, answer, "8053")
		defer server.Stop(ctx)
		_, err := ask("udp")
		Expect(err).To(HaveOccurred(), "the control: nobody has announced it yet")
		apply(ctx, c, nameService)
		Expect(awaitRoutes(ctx, c, map[string]map[string]float64{nameVIP + ":53": {"names:8053": 1}})).To(Succeed())
		for _, network := range []string{"udp", "tcp"} {
			Eventually(ctx, func() (string, error) { return ask(network) }).Should(ContainSubstring(answer), network)
		}
	}, SpecTimeout(time.Minute))
})
