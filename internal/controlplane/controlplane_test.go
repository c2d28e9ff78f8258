package controlplane

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestBinariesCheck(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := Binaries{Etcd: program, APIServer: program, Istiod: program, Istioctl: program}
	if err := good.Check(); err != nil {
		t.Errorf("all are there: %v", err)
	}
	for want, change := range map[string]func(*Binaries){
		"no path of etcd is given": func(b *Binaries) { b.Etcd = "" },
		"kube-apiserver: stat":     func(b *Binaries) { b.APIServer = filepath.Join(dir, "nothing") },
		"is no program":            func(b *Binaries) { b.Istiod = text },
		"istioctl":                 func(b *Binaries) { b.Istioctl = dir },
	} {
		b := good
		change(&b)
		if err := b.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestServerCertificate(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.server([]string{"kubernetes.default.svc"}, []netip.Addr{netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("fd96::1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(p.cert, p.key); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p.cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	for name, ok := range map[string]bool{
		"kubernetes.default.svc": true, "10.64.0.1": true, "fd96::1": true, "10.64.0.2": false, "istiod": false,
	} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: name})
		if (err == nil) != ok {
			t.Errorf("for %s: %v", name, err)
		}
	}
}

func TestStatusOf(t *testing.T) {
	a := netip.MustParseAddr
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "traffic"}}}}
	s := statusOf(pod, Pod{Addresses: []netip.Addr{a("10.1.1.1"), a("fd00::1")}}, Node{Addresses: []netip.Addr{a("10.1.0.1")}})
	if s.PodIP != "10.1.1.1" || len(s.PodIPs) != 2 || s.HostIP != "10.1.0.1" || s.Phase != corev1.PodRunning || len(s.ContainerStatuses) != 1 {
		t.Errorf("%+v", s)
	}
	ready := false
	for _, c := range s.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	if !ready {
		t.Error("it is not ready")
	}
}
