// Package kubetest gives a test a real Kubernetes API: etcd and kube-apiserver as
// processes of the test, on the loopback, with nothing in it. There is no kubelet,
// scheduler or controller: the test plays them.
package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Server is a running API server.
type Server struct {
	// Config is the administrator's.
	Config *rest.Config
	// Client is made of it.
	Client kubernetes.Interface
}

// room has the servers that run, at most four at a time: each takes some 300 MB, and a
// machine of many processors runs as many tests. A test starts one.
var room = make(chan struct{}, 4)

// Start starts etcd and kube-apiserver and returns when it serves. They end with
// the test. Tests may run beside each other, and wait for a place. Without the programs the test is
// skipped as NOT RUN, unless they are promised.
func Start(t testing.TB) *Server {
	t.Helper()
	etcd, apiserver := program(t, "ETCD_BIN", "etcd"), program(t, "KUBE_APISERVER_BIN", "kube-apiserver")
	room <- struct{}{}
	t.Cleanup(func() { <-room })
	dir := t.TempDir()
	ports := reservePorts(t, 3)
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	run(t, dir, etcd, "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error", "--socket-reuse-port",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	key, tokens := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens.csv")
	writeKey(t, key)
	must(t, os.WriteFile(tokens, []byte("admin,admin,admin,system:masters\n"), 0o600))
	certs := filepath.Join(dir, "certs")
	ended := run(t, dir, apiserver, "--etcd-servers="+client, "--bind-address=127.0.0.1", "--secure-port="+ports[2], "--permit-port-sharing",
		"--cert-dir="+certs, "--token-auth-file="+tokens, "--authorization-mode=RBAC", "--allow-privileged=true",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
		"--disable-admission-plugins=ServiceAccount", "--profiling=false")
	s := &Server{Config: &rest.Config{
		Host: "https://127.0.0.1:" + ports[2], BearerToken: "admin", QPS: -1,
		// Its certificate is its own work, made at the start.
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(certs, "apiserver.crt")},
	}}
	s.await(t, ended)
	return s
}

// As returns a configuration of somebody else's rights, for example
// "system:serviceaccount:NAMESPACE:NAME".
func (s *Server) As(user string, groups ...string) *rest.Config {
	c := rest.CopyConfig(s.Config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return c
}

func (s *Server) await(t testing.TB, ended <-chan string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(2 * time.Minute)
	for {
		err := s.ready(t.Context())
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case said := <-ended:
			t.Fatalf("kube-apiserver has ended: %s", said)
		case <-late:
			t.Fatalf("kube-apiserver does not get ready: %v", err)
		}
	}
}

func (s *Server) ready(ctx context.Context) (err error) {
	if s.Client == nil {
		// Fails as long as the certificate is not written.
		if s.Client, err = newClient(s.Config); err != nil {
			return err
		}
	}
	status := 0
	err = s.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status).Error()
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("/readyz: %d", status)
	}
	return err
}

func newClient(c *rest.Config) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, err // not a nil *Clientset in the interface
	}
	return client, nil
}

// program finds what make controlplane builds. A lane of tests that promises it by its
// name (kernel.PromiseEnv) fails without it.
func program(t testing.TB, variable, name string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "duomesh/kubernetes/*", name))
	must(t, err)
	kernel.Require(t, kernel.Feature{Name: name, Probe: func() error {
		if len(found) > 0 {
			return nil
		}
		return fmt.Errorf("%w: make controlplane builds it, %s names yours", fs.ErrNotExist, variable)
	}})
	return found[len(found)-1]
}

// run starts a program and ends it with the test, or with the process of the test
// when that is killed. The channel says what it said last, when it ends before.
func run(t testing.TB, dir, path string, args ...string) <-chan string {
	t.Helper()
	var said tail
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // Pdeathsig follows the thread that starts
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
			ended <- fmt.Sprintf("%v: %s", err, said.String())
		}
	})
	must(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails when it has ended
		wg.Wait()
	})
	return ended
}

// tail keeps the end of what a program says.
type tail struct {
	mu   sync.Mutex
	data bytes.Buffer
}

const most = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data.Write(p)
	t.data.Next(max(0, t.data.Len()-most))
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.data.String())
}

// reservePorts takes ports of 127.0.0.1 that are the test's until it ends. Programs that
// set SO_REUSEPORT can listen there, and nobody is given them for port 0.
func reservePorts(t testing.TB, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		bound, err := unix.Getsockname(fd)
		must(t, err)
		ports = append(ports, strconv.Itoa(bound.(*unix.SockaddrInet4).Port))
	}
	return ports
}

func writeKey(t testing.TB, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	must(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
