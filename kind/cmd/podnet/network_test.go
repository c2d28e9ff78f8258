package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestConfigure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "10-podnet.conflist")
	if err := configure(file, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Fatal("a node without addresses has a configuration")
	}
	cidrs := []string{"10.244.1.0/24", "fd00:10:244:1::/64"}
	if err := configure(file, cidrs); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Plugins []struct {
			Type string
			IPAM struct {
				Ranges [][]map[string]string
				Routes []map[string]string
			}
		}
	}
	if err := json.Unmarshal(text, &conf); err != nil {
		t.Fatal(err)
	}
	ipam := conf.Plugins[0].IPAM
	want := [][]map[string]string{{{"subnet": cidrs[0]}}, {{"subnet": cidrs[1]}}}
	if diff := cmp.Diff(want, ipam.Ranges); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}}, ipam.Routes); diff != "" {
		t.Error(diff)
	}

	others := bytes.Replace(text, []byte(`"plugins": [`), []byte(`"of": "another", "plugins":[`), 1)
	if err := os.WriteFile(file, others, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := configure(file, cidrs); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != string(others) {
		t.Errorf("a configuration that has the addresses was written again: %s, %v", now, err)
	}
	if err := configure(file, []string{"10.244.7.0/24"}); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) == string(others) {
		t.Errorf("a configuration with other addresses was not written: %v", err)
	}
}

func TestAddressFor(t *testing.T) {
	all := []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "10.0.0.9"},
		{Type: corev1.NodeInternalIP, Address: "172.31.64.3"},
		{Type: corev1.NodeInternalIP, Address: "fc00::3"},
	}
	for cidr, want := range map[string]string{"10.244.1.0/24": "172.31.64.3", "fd00:1::/64": "fc00::3"} {
		if got, err := addressFor(cidr, all); err != nil || got != want {
			t.Errorf("%s: got %s, %v", cidr, got, err)
		}
	}
	if _, err := addressFor("fd00:1::/64", all[:2]); err == nil {
		t.Error("a node without an IPv6 address has one")
	}
}
