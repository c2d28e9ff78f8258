package file

import (
	"strings"
	"testing"
)

// badInputs holds one file for each thing that can be wrong, and the exact
// messages.
var badInputs = []struct {
	name, text string
	want       []string
}{
	{
		name: "empty file",
		text: "",
		want: []string{
			"x.yaml:1:1: version is missing, the file is empty",
		},
	},
	{
		name: "only a comment",
		text: "# nothing yet\n",
		want: []string{
			"x.yaml:1:1: version is missing, the file is empty",
		},
	},
	{
		name: "version missing",
		text: "services: []\n",
		want: []string{
			"x.yaml:1:1: version is missing",
		},
	},
	{
		name: "other version: the rest is not judged",
		text: "version: 2\nnovelties: 7\n",
		want: []string{
			"x.yaml:1:10: version must be 1, the one that this build reads, it is 2",
		},
	},
	{
		name: "version as text",
		text: "version: \"1\"\n",
		want: []string{
			"x.yaml:1:10: version must be 1, the one that this build reads, it is \"1\"",
		},
	},
	{
		name: "not a mapping",
		text: "- version: 1\n",
		want: []string{
			"x.yaml:1:1: the file must be a mapping, it is a list",
		},
	},
	{
		name: "not YAML",
		text: "version: 1\nservices: [a\n",
		want: []string{
			"x.yaml:2:11: not YAML: sequence end token ']' not found",
		},
	},
	{
		name: "tab",
		text: "version: 1\nservices:\n\t- name: a\n",
		want: []string{
			"x.yaml:3:1: not YAML: found character '\t' that cannot start any token",
		},
	},
	{
		name: "not UTF-8",
		text: "version: 1\n# caf\xff\n",
		want: []string{
			"x.yaml:2:6: the file is not UTF-8 text",
		},
	},
	{
		name: "two documents",
		text: "version: 1\n---\nversion: 1\n",
		want: []string{
			"x.yaml:3:1: a second document begins, a file holds one",
		},
	},
	{
		name: "directive",
		text: "%YAML 1.2\n---\nversion: 1\n",
		want: []string{
			"x.yaml:1:1: directives are not part of this form",
		},
	},
	{
		name: "nested too deep",
		text: "version: 1\n" +
			"routes: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
		want: []string{
			"x.yaml:2:41: values are nested deeper than 32 levels",
		},
	},
	{
		name: "unknown key at the top",
		text: "version: 1\nservice: []\n",
		want: []string{
			"x.yaml:2:1: service is not a key of this form, the keys here are policies, routes, services, version, waypoints, workloads",
		},
	},
	{
		name: "unknown key below",
		text: "version: 1\nservices:\n  - name: a\n    adresses: [10.0.0.1]\n",
		want: []string{
			"x.yaml:4:5: services[0].adresses is not a key of this form, the keys here are addresses, balance, canonical, endpoints, hostname, name, namespace, ports, waypoint",
		},
	},
	{
		name: "key given twice",
		text: "version: 1\nservices:\n  - name: a\n    name: b\n",
		want: []string{
			"x.yaml:4:5: services[0].name is given twice, first in line 3",
		},
	},
	{
		name: "merge key",
		text: "version: 1\nworkloads:\n  - <<: {name: a}\n    name: b\n",
		want: []string{
			"x.yaml:3:5: workloads[0].<< is not a key of this form, the keys here are addresses, cluster, gateway, hostNetwork, hostname, locality, name, namespace, network, node, uid, unhealthy, unprotected, waypoint, weight",
		},
	},
	{
		name: "key that is a list",
		text: "version: 1\nworkloads:\n  - ? [a]\n    : b\n",
		want: []string{
			"x.yaml:4:5: not YAML: found an invalid key for this map",
		},
	},
	{
		name: "name missing",
		text: "version: 1\nservices:\n  - namespace: a\n",
		want: []string{
			"x.yaml:3:5: services[0].name is missing",
		},
	},
	{
		name: "name and uid missing",
		text: "version: 1\nworkloads:\n  - weight: 2\n",
		want: []string{
			"x.yaml:3:5: workloads[0] needs a name or a uid",
		},
	},
	{
		name: "name empty",
		text: "version: 1\nservices:\n  - name: \"\"\n",
		want: []string{
			"x.yaml:3:11: services[0].name must not be empty",
		},
	},
	{
		name: "name is a number",
		text: "version: 1\nservices:\n  - name: 7\n",
		want: []string{
			"x.yaml:3:11: services[0].name must be text, it is 7 (write it in quotes)",
		},
	},
	{
		name: "name is a list",
		text: "version: 1\nservices:\n  - name: [a]\n",
		want: []string{
			"x.yaml:3:11: services[0].name must be text, it is a list",
		},
	},
	{
		name: "name with a control character",
		text: "version: 1\nservices:\n  - name: \"a\\tb\"\n",
		want: []string{
			"x.yaml:3:11: services[0].name must not have control characters",
		},
	},
	{
		name: "list that is empty",
		text: "version: 1\nservices:\n",
		want: []string{
			"x.yaml:2:11: services must be a list, it is empty",
		},
	},
	{
		name: "list that is a mapping",
		text: "version: 1\nservices: {name: a}\n",
		want: []string{
			"x.yaml:2:11: services must be a list, it is a mapping",
		},
	},
	{
		name: "item that is text",
		text: "version: 1\nservices: [a]\n",
		want: []string{
			"x.yaml:2:12: services[0] must be a mapping, it is \"a\"",
		},
	},
	{
		name: "anchor, alias, tag",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - &one {name: a}\n" +
			"  - *one\n" +
			"  - !!map {name: b}\n",
		want: []string{
			"x.yaml:3:5: workloads[0] must be a mapping, it is an anchor, which this form does not have",
			"x.yaml:4:5: workloads[1] must be a mapping, it is an alias, which this form does not have",
			"x.yaml:5:5: workloads[2] must be a mapping, it is a tagged value, which this form does not have",
		},
	},
	{
		name: "bad addresses",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - name: a\n" +
			"    addresses: [10.0.0, 10.0.0.256, 10.0.0.1/8, 7, \"\", \"fe80::1%eth0\"]\n",
		want: []string{
			"x.yaml:4:17: workloads[0].addresses[0] must be an IPv4 or IPv6 address, it is \"10.0.0\"",
			"x.yaml:4:25: workloads[0].addresses[1] must be an IPv4 or IPv6 address, it is \"10.0.0.256\"",
			"x.yaml:4:37: workloads[0].addresses[2] must be an IPv4 or IPv6 address, it is \"10.0.0.1/8\"",
			"x.yaml:4:49: workloads[0].addresses[3] must be an IPv4 or IPv6 address, it is 7",
			"x.yaml:4:52: workloads[0].addresses[4] must be an IPv4 or IPv6 address, it is \"\"",
			"x.yaml:4:56: workloads[0].addresses[5]: address fe80::1%eth0 cannot be used: has a scope",
		},
	},
	{
		name: "addresses that cannot be used",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - name: a\n" +
			"    addresses: [0.0.0.0, 127.0.0.1, 169.254.0.1, 224.0.0.1, \"::ffff:10.0.0.1\", \"::1\"]\n",
		want: []string{
			"x.yaml:4:17: workloads[0].addresses[0]: address 0.0.0.0 cannot be used: unspecified",
			"x.yaml:4:26: workloads[0].addresses[1]: address 127.0.0.1 cannot be used: loopback",
			"x.yaml:4:37: workloads[0].addresses[2]: address 169.254.0.1 cannot be used: link-local",
			"x.yaml:4:50: workloads[0].addresses[3]: address 224.0.0.1 cannot be used: multicast",
			"x.yaml:4:61: workloads[0].addresses[4]: address ::ffff:10.0.0.1 cannot be used: write a v4-mapped address as IPv4",
			"x.yaml:4:80: workloads[0].addresses[5]: address ::1 cannot be used: loopback",
		},
	},
	{
		name: "ports out of range",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    ports:\n" +
			"      - port: 0\n" +
			"      - port: 65536\n" +
			"      - port: -1\n" +
			"      - port: 99999999999999999999\n" +
			"      - port: 1.5\n" +
			"      - port: \"80\"\n" +
			"      - port: 0x50\n" +
			"      - port: 0080\n" +
			"      - port:\n",
		want: []string{
			"x.yaml:5:15: services[0].ports[0].port must be a decimal number from 1 to 65535, it is 0",
			"x.yaml:6:15: services[0].ports[1].port must be a decimal number from 1 to 65535, it is 65536",
			"x.yaml:7:15: services[0].ports[2].port must be a decimal number from 1 to 65535, it is -1",
			"x.yaml:8:15: services[0].ports[3].port must be a decimal number from 1 to 65535, it is \"99999999999999999999\"",
			"x.yaml:9:15: services[0].ports[4].port must be a decimal number from 1 to 65535, it is 1.5",
			"x.yaml:10:15: services[0].ports[5].port must be a decimal number from 1 to 65535, it is \"80\"",
			"x.yaml:11:15: services[0].ports[6].port must be a decimal number from 1 to 65535, it is 0x50",
			"x.yaml:12:15: services[0].ports[7].port must be a decimal number from 1 to 65535, it is \"0080\"",
			"x.yaml:13:15: services[0].ports[8].port must be a decimal number from 1 to 65535, it is empty",
		},
	},
	{
		name: "targetPort",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    ports:\n" +
			"      - {port: 1, targetPort: 0}\n" +
			"      - {port: 2, targetPort: http}\n" +
			"      - {port: 3, targetPort: 65536}\n",
		want: []string{
			"x.yaml:5:31: services[0].ports[0].targetPort must be a decimal number from 1 to 65535 or named, it is 0",
			"x.yaml:6:31: services[0].ports[1].targetPort must be a decimal number from 1 to 65535 or named, it is \"http\"",
			"x.yaml:7:31: services[0].ports[2].targetPort must be a decimal number from 1 to 65535 or named, it is 65536",
		},
	},
	{
		name: "protocol",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    ports:\n" +
			"      - {port: 1, protocol: tcp}\n" +
			"      - {port: 2, protocol: SCTP}\n",
		want: []string{
			"x.yaml:5:29: services[0].ports[0].protocol must be one of TCP, UDP, it is \"tcp\"",
			"x.yaml:6:29: services[0].ports[1].protocol must be one of TCP, UDP, it is \"SCTP\"",
		},
	},
	{
		name: "port declared twice",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    ports:\n" +
			"      - port: 80\n" +
			"      - {port: 80, protocol: UDP}\n" +
			"      - {port: 80, targetPort: 81}\n",
		want: []string{
			"x.yaml:7:9: services[0].ports[2]: port 80/TCP is declared twice, first in line 5",
		},
	},
	{
		name: "port missing",
		text: "version: 1\nservices:\n  - name: a\n    ports:\n      - name: http\n",
		want: []string{
			"x.yaml:5:9: services[0].ports[0].port is missing",
		},
	},
	{
		name: "weights",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - {name: a, weight: 4294967296}\n" +
			"  - {name: b, weight: -1}\n" +
			"  - {name: c, weight: 0.5}\n" +
			"  - {name: d, weight: many}\n" +
			"  - {name: e, weight: 4294967295}\n" +
			"  - {name: f, weight: 0}\n",
		want: []string{
			"x.yaml:3:23: workloads[0].weight must be a decimal number from 0 to 4294967295, it is 4294967296",
			"x.yaml:4:23: workloads[1].weight must be a decimal number from 0 to 4294967295, it is -1",
			"x.yaml:5:23: workloads[2].weight must be a decimal number from 0 to 4294967295, it is 0.5",
			"x.yaml:6:23: workloads[3].weight must be a decimal number from 0 to 4294967295, it is \"many\"",
		},
	},
	{
		name: "booleans",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - {name: a, unhealthy: yes}\n" +
			"  - {name: b, gateway: 1}\n" +
			"  - {name: c, hostNetwork: \"true\"}\n",
		want: []string{
			"x.yaml:3:26: workloads[0].unhealthy must be true or false, it is \"yes\"",
			"x.yaml:4:24: workloads[1].gateway must be true or false, it is 1",
			"x.yaml:5:28: workloads[2].hostNetwork must be true or false, it is \"true\"",
		},
	},
	{
		name: "service declared twice",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"  - {name: a, namespace: other}\n" +
			"  - {name: a, namespace: default}\n",
		want: []string{
			"x.yaml:5:5: services[2]: service default/a is declared twice, first in line 3",
		},
	},
	{
		name: "workload declared twice",
		text: "version: 1\nworkloads:\n  - name: a\n  - {name: b, uid: default/a}\n",
		want: []string{
			"x.yaml:4:5: workloads[1]: workload default/a is declared twice, first in line 3",
		},
	},
	{
		name: "waypoint declared twice",
		text: "version: 1\nwaypoints:\n  - name: w\n  - name: w\n",
		want: []string{
			"x.yaml:4:5: waypoints[1]: waypoint w is declared twice, first in line 3",
		},
	},
	{
		name: "policy declared twice",
		text: "version: 1\npolicies:\n  - name: p\n  - name: p\n",
		want: []string{
			"x.yaml:4:5: policies[1]: policy default/p is declared twice, first in line 3",
		},
	},
	{
		name: "endpoint's workload unknown",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    endpoints:\n" +
			"      - workload: b\n" +
			"      - workload: other/b\n" +
			"      - ports: {80: 8080}\n",
		want: []string{
			"x.yaml:5:19: services[0].endpoints[0].workload: no workload has the uid b, none is named default/b",
			"x.yaml:6:19: services[0].endpoints[1].workload: no workload has the uid other/b, none is named other/b",
			"x.yaml:7:9: services[0].endpoints[2].workload is missing",
			"x.yaml:7:17: services[0].endpoints[2].ports.80: the service declares no port 80",
		},
	},
	{
		name: "endpoint twice",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    endpoints:\n" +
			"      - workload: b\n" +
			"      - workload: default/b\n" +
			"workloads: [{name: b}]\n",
		want: []string{
			"x.yaml:6:19: services[0].endpoints[1]: endpoint default/b is declared twice, first in line 5",
		},
	},
	{
		name: "endpoint's name is not unique",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    endpoints: [{workload: b}]\n" +
			"workloads: [{name: b, uid: one}, {name: b, uid: two}]\n",
		want: []string{
			"x.yaml:4:28: services[0].endpoints[0].workload: 2 workloads are named default/b, write the uid of one",
		},
	},
	{
		name: "endpoint's own ports",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    ports: [{port: 80}]\n" +
			"    endpoints:\n" +
			"      - workload: b\n" +
			"        ports: {80: 0, 81: 8081, http: 8080, 80: 8082}\n" +
			"workloads: [{name: b}]\n",
		want: []string{
			"x.yaml:7:21: services[0].endpoints[0].ports.80 must be a decimal number from 1 to 65535, it is 0",
			"x.yaml:7:24: services[0].endpoints[0].ports.81: the service declares no port 81",
			"x.yaml:7:34: a key of services[0].endpoints[0].ports must be a decimal number from 1 to 65535, it is \"http\"",
			"x.yaml:7:46: services[0].endpoints[0].ports.80 is given twice, first in line 7",
		},
	},
	{
		name: "waypoint unknown",
		text: "version: 1\n" +
			"services:\n" +
			"  - {name: a, waypoint: w}\n" +
			"workloads:\n" +
			"  - {name: b, waypoint: default/w}\n",
		want: []string{
			"x.yaml:3:25: services[0].waypoint: no waypoint is named w",
			"x.yaml:5:25: workloads[0].waypoint: no waypoint is named default/w",
		},
	},
	{
		name: "waypoint's replica with ports",
		text: "version: 1\n" +
			"waypoints:\n" +
			"  - name: w\n" +
			"    endpoints: [{workload: b, ports: {80: 81}}]\n" +
			"workloads: [{name: b}]\n",
		want: []string{
			"x.yaml:4:31: waypoints[0].endpoints[0].ports is not a key of this form, the keys here are workload",
		},
	},
	{
		name: "codec",
		text: "version: 1\nwaypoints:\n  - {name: w, codec: hbone}\n",
		want: []string{
			"x.yaml:3:22: waypoints[0].codec must be one of original-dst, proxy-v2, kmesh-tlv, it is \"hbone\"",
		},
	},
	{
		name: "balance",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    balance: {mode: near}\n" +
			"  - name: b\n" +
			"    balance: {prefer: [zone]}\n" +
			"  - name: c\n" +
			"    balance: {mode: failover}\n" +
			"  - name: d\n" +
			"    balance: {mode: strict, prefer: [rack]}\n" +
			"  - name: e\n" +
			"    balance: zone\n",
		want: []string{
			"x.yaml:4:21: services[0].balance.mode must be one of any, strict, failover, passthrough, it is \"near\"",
			"x.yaml:6:14: services[1].balance: prefer has no effect in mode any, only in strict and failover",
			"x.yaml:8:14: services[2].balance: mode failover needs prefer",
			"x.yaml:10:38: services[3].balance.prefer[0] must be one of network, region, zone, subzone, node, cluster, it is \"rack\"",
			"x.yaml:12:14: services[4].balance must be a mapping, it is \"zone\"",
		},
	},
	{
		name: "locality",
		text: "version: 1\n" +
			"workloads:\n" +
			"  - name: a\n" +
			"    locality: {region: 7, area: north}\n",
		want: []string{
			"x.yaml:4:24: workloads[0].locality.region must be text, it is 7 (write it in quotes)",
			"x.yaml:4:27: workloads[0].locality.area is not a key of this form, the keys here are region, subzone, zone",
		},
	},
	{
		name: "policy's workloads",
		text: "version: 1\npolicies:\n  - name: p\n    workloads: [b, \"\"]\n",
		want: []string{
			"x.yaml:4:17: policies[0].workloads[0]: no workload has the uid b, none is named default/b",
			"x.yaml:4:20: policies[0].workloads[1] must not be empty",
		},
	},
	{
		name: "route without backends",
		text: "version: 1\n" +
			"services: [{name: a}]\n" +
			"routes:\n" +
			"  - service: a\n" +
			"  - {service: a, backends: []}\n",
		want: []string{
			"x.yaml:4:5: routes[0].backends is missing",
			"x.yaml:5:15: routes[1].backends must have at least one item",
		},
	},
	{
		name: "route's services unknown",
		text: "version: 1\n" +
			"routes:\n" +
			"  - service: a\n" +
			"    backends: [{service: other/b, port: 80}]\n",
		want: []string{
			"x.yaml:3:14: routes[0].service: there is no service default/a",
			"x.yaml:4:26: routes[0].backends[0].service: there is no service other/b",
		},
	},
	{
		name: "route's match and timeout",
		text: "version: 1\n" +
			"services: [{name: a}]\n" +
			"routes:\n" +
			"  - service: a\n" +
			"    match: {exact: x}\n" +
			"    timeout: 5\n" +
			"    backends: [{service: a, port: 80}]\n" +
			"  - service: a\n" +
			"    timeout: -1s\n" +
			"    backends: [{service: a, weight: -1}]\n",
		want: []string{
			"x.yaml:5:12: routes[0].match.header is missing",
			"x.yaml:6:14: routes[0].timeout must be a time such as 250ms or 2s, it is 5",
			"x.yaml:9:14: routes[1].timeout must be a time such as 250ms or 2s, it is \"-1s\"",
			"x.yaml:10:16: routes[1].backends[0].port is missing",
			"x.yaml:10:37: routes[1].backends[0].weight must be a decimal number from 0 to 4294967295, it is -1",
		},
	},
	{
		name: "several problems in the order of their places",
		text: "version: 1\n" +
			"services:\n" +
			"  - name: a\n" +
			"    waypoint: none\n" +
			"    ports: [{port: 0}]\n" +
			"  - name: a\n" +
			"    addresses: [x]\n" +
			"workloads:\n" +
			"  - weight: 1\n" +
			"    colour: red\n",
		want: []string{
			"x.yaml:4:15: services[0].waypoint: no waypoint is named none",
			"x.yaml:5:20: services[0].ports[0].port must be a decimal number from 1 to 65535, it is 0",
			"x.yaml:6:5: services[1]: service default/a is declared twice, first in line 3",
			"x.yaml:7:17: services[1].addresses[0] must be an IPv4 or IPv6 address, it is \"x\"",
			"x.yaml:10:5: workloads[0].colour is not a key of this form, the keys here are addresses, cluster, gateway, hostNetwork, hostname, locality, name, namespace, network, node, uid, unhealthy, unprotected, waypoint, weight",
		},
	},
}

func TestBadInputs(t *testing.T) {
	for _, c := range badInputs {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(c.text))
			if err == nil {
				t.Fatal("no error")
			}
			if want := strings.Join(c.want, "\n"); err.Error() != want {
				t.Errorf("got:\n%s\nwant:\n%s", err, want)
			}
		})
	}
}
