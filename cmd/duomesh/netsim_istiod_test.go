package main

import (
	"path/filepath"
	"testing"
)

func TestPlanePrograms(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	none := planePrograms(func(string) string { return "" })
	if filepath.Base(none.Istiod) != "istiod" || none.GatewayCRDs != "" {
		t.Errorf("with nothing built: %+v", none)
	}
	if none.Check() == nil {
		t.Error("programs that are not there are there")
	}
	own := planePrograms(func(name string) string { return "/own/" + name })
	if own.Etcd != "/own/ETCD_BIN" || own.APIServer != "/own/KUBE_APISERVER_BIN" || own.GatewayCRDs != "/own/GATEWAY_CRDS" {
		t.Errorf("what the environment names: %+v", own)
	}
}
