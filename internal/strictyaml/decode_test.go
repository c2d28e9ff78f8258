package strictyaml

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type form struct {
	Name  string
	Count int
	Port  uint16
	Big   *uint32
	Rate  float64 `yaml:"perSecond"`
	On    bool
	Wait  time.Duration
	Items []form
	Share map[string]float64
	Ports map[uint16]uint16
	Own   string `yaml:"-"`
}

func TestDecode(t *testing.T) {
	var got form
	d := Decode("f", []byte("\ufeffname: 'a'\ncount: 3\nport: 80\nbig: 0\nperSecond: 0.5\non: true\nwait: 2s\n"+
		"items: [{name: b}, {count: 1}]\nshare: {v1: 1, v2: 0.25}\nports: {80: 8080}\n"), &got)
	zero := uint32(0)
	want := form{
		Name: "a", Count: 3, Port: 80, Big: &zero, Rate: .5, On: true, Wait: 2 * time.Second,
		Items: []form{{Name: "b"}, {Count: 1}}, Share: map[string]float64{"v1": 1, "v2": .25}, Ports: map[uint16]uint16{80: 8080},
	}
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, at := range map[string]Position{
		"items[1].count": {8, 28}, "items[1].name": {8, 20}, "share.v2": {9, 20}, "nothing": {1, 1}, "ports.80": {10, 13},
	} {
		if got := d.Place(path); got != at {
			t.Errorf("%s stands at %v, want %v", path, got, at)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "f:1:1: the file is empty",
		"# nothing":                  "f:1:1: the file is empty",
		"- a":                        "f:1:1: the file must be a mapping, it is a list",
		"name: 1":                    "f:1:7: name must be text, it is 1 (write it in quotes)",
		"name:":                      "f:1:7: name must be text, it is empty",
		"name: a\n---\nname: b":      "f:3:1: a second document begins, a file holds one",
		"name: a\nname: b":           "f:2:1: name is given twice, first in line 1",
		"names: a\non: true":         "f:1:1: names is not a key of this form, the keys here are big, count, items, name, on, perSecond, port, ports, share, wait",
		"own: a":                     "f:1:1: own is not a key of this form, the keys here are big, count, items, name, on, perSecond, port, ports, share, wait",
		"count: 1.5":                 "f:1:8: count must be a decimal number from 0 to 2147483647, it is 1.5",
		"count: -1":                  "f:1:8: count must be a decimal number from 0 to 2147483647, it is -1",
		"port: 0o10":                 "f:1:7: port must be a decimal number from 0 to 65535, it is 0o10",
		"port: 1_0":                  "f:1:7: port must be a decimal number from 0 to 65535, it is 1_0",
		"big: 4294967296":            "f:1:6: big must be a decimal number from 0 to 4294967295, it is 4294967296",
		"perSecond: '0.5'":           `f:1:12: perSecond must be a decimal number such as 0.9, it is "0.5"`,
		"perSecond: -1":              "f:1:12: perSecond must be a decimal number such as 0.9, it is -1",
		"perSecond: .inf":            "f:1:12: perSecond must be a decimal number such as 0.9, it is .inf",
		"perSecond: 010":             "f:1:12: perSecond must be a decimal number such as 0.9, it is 010",
		"on: yes":                    `f:1:5: on must be true or false, it is "yes"`,
		"wait: 5":                    "f:1:7: wait must be a time such as 250ms or 2s, it is 5",
		"items: {name: a}":           "f:1:8: items must be a list, it is a mapping",
		"items: [&a {name: b}, *a]":  "f:1:9: items[0] must be a mapping, it is an anchor, which this form does not have\nf:1:23: items[1] must be a mapping, it is an alias, which this form does not have",
		"share: {a: 1, a: 2}":        "f:1:15: share.a is given twice, first in line 1",
		"ports: {http: 1, 70000: 2}": "f:1:9: a key of ports must be a decimal number from 0 to 65535, it is \"http\"\nf:1:18: a key of ports must be a decimal number from 0 to 65535, it is 70000",
	} {
		var got form
		if err := Decode("f", []byte(text), &got).Err(); err == nil || err.Error() != want {
			t.Errorf("%q\n got %v\nwant %s", text, err, want)
		}
	}
}
