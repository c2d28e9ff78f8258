package controlplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

// etcdCommand serves on the loopback of the namespace alone. What is lost when the
// machine stops is of no use afterwards.
func (c Config) etcdCommand() Command {
	client, peer := url("http", etcdPort), url("http", peerPort)
	return Command{
		Argv: []string{
			c.Binaries.Etcd, "--data-dir=" + filepath.Join(c.Dir, "etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
			"--log-level=warn",
		},
		Dir: c.Dir, Env: []string{},
	}
}

func (c Config) apiserverCommand() Command {
	in := func(name string) string { return filepath.Join(c.Dir, name) }
	var ranges []string
	for _, r := range c.Services {
		ranges = append(ranges, r.String())
	}
	return Command{
		Argv: []string{
			c.Binaries.APIServer, "--etcd-servers=" + url("http", etcdPort),
			"--bind-address=::", "--advertise-address=" + c.Addresses[0].String(),
			"--secure-port=" + strconv.Itoa(APIServerPort),
			"--tls-cert-file=" + in(serverCert), "--tls-private-key-file=" + in(serverKey),
			"--client-ca-file=" + in(authorityFile), "--cert-dir=" + in("apiserver"),
			"--service-account-key-file=" + in(tokenPublic), "--service-account-signing-key-file=" + in(TokenKeyFile),
			"--service-account-issuer=" + Issuer, "--authorization-mode=Node,RBAC", "--allow-privileged=true",
			"--service-cluster-ip-range=" + strings.Join(ranges, ","),
			// Nobody asks twice within a run; each change must be there at once.
			"--watch-cache=true", "--profiling=false",
		},
		Dir: c.Dir, Env: []string{},
	}
}

// Issuer is who signs ServiceAccount tokens.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// url is one on the loopback of the control plane's namespace.
func url(scheme string, port int) string {
	return scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// answers returns nil when a page without TLS answers with 200.
func (c Config) answers(ctx context.Context, page string) error {
	client := http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 512)) // for people
		return fmt.Errorf("%s: %s: %s", page, res.Status, said)
	}
	return nil
}
