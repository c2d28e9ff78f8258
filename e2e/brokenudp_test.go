package e2e

import (
	. "github.com/onsi/ginkgo/v2"

	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

// The controls of what is held against sockets of UDP. Nothing here takes the whole
// redirection of an unconnected socket away: nobody would tell it, and each of its
// datagrams would wait for its answer.
var _ = Describe("a mesh of datagrams broken from outside", Label("netsim"), func() {
	DescribeTable("is refused", func(ctx SpecContext, name string, b brokenWorld, check string) {
		expectRefused(ctx, name, b, check)
	},
		Entry("connect program detached", "udp/connected/90-10",
			brokenWorld{sabotage: detach("mesh_connect4")}, "the application saw what is declared"),
		Entry("connect program detached, by the packets", "udp/connected/90-10",
			brokenWorld{sabotage: detach("mesh_connect4")}, "datagrams of client to"),
		Entry("getpeername program detached", "udp/connected/90-10",
			brokenWorld{sabotage: detach("mesh_getpeername4")}, "getpeername answers the asked address"),
		Entry("recvmsg program detached", "udp/unconnected/90-10",
			brokenWorld{sabotage: detach("mesh_recvmsg4")}, "answers come from the asked address"),
		Entry("85/15 instead of 90/10 in the pinned slots", "udp/unconnected/90-10",
			brokenWorld{sabotage: editSlots(eightyFive)}, "share of v1"),
		Entry("slots lead to a pod that is not declared", "udp/unconnected/90-10",
			brokenWorld{sabotage: sendTo("v3")}, "the application saw what is declared"),
		Entry("slots emptied: refused by the mesh", "udp/unconnected/90-10",
			brokenWorld{sabotage: editSlots(func(slot []byte) { clear(slot) })}, "the application saw what is declared"),
		Entry("a node that sends datagrams for v2 elsewhere", "udp/unconnected/90-10",
			brokenWorld{sabotage: rules("a", func(c *netsim.Cluster) [][]string {
				return [][]string{{"nat", "PREROUTING", "-d", address(c, "v2"), "-j", "DNAT", "--to-destination", address(c, "v1")}}
			})}, "datagrams of client to"),
		Entry("a node that hides the client's address", "udp/connected/90-10",
			brokenWorld{sabotage: rules("a", func(c *netsim.Cluster) [][]string {
				return [][]string{{"nat", "POSTROUTING", "-s", address(c, "client"), "-j", "MASQUERADE"}}
			})}, "the server sees the client's own address"),
		Entry("no endpoints, and no engine either", "udp/no-endpoints/500",
			brokenWorld{sabotage: detach("mesh_connect4")}, "the application saw what is declared"),
		Entry("a removed endpoint that stays", "udp/endpoint-removed/under-load",
			brokenWorld{deaf: true}, "after the change: the application saw what is declared"),
	)

	DescribeTable("is refused when a witness says something else", func(ctx SpecContext, b brokenWorld, check string) {
		expectRefused(ctx, "udp/unconnected/90-10", b, check)
	},
		Entry("a client that sent more than it tells", brokenWorld{client: func(conns []traffic.Conn) []traffic.Conn {
			conns[0].Datagrams++
			return conns
		}}, "client and kernel agree on what was asked"),
		Entry("a client that keeps a socket to itself", brokenWorld{client: func(conns []traffic.Conn) []traffic.Conn {
			return conns[1:]
		}}, "every declared connection was reported"),
		Entry("a server that received more than it tells", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v1"][0].Datagrams--
		}}, "client and server agree"),
		Entry("a server that tells of datagrams that nobody sent", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v1"] = append(served["v1"], traffic.Conn{Role: traffic.Server, ID: 1 << 60, Datagrams: 1})
		}}, "every connection that servers saw was made by a client"),
	)
})
