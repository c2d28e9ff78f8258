package controlplane

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeAccount is the ServiceAccount of node agents in RootNamespace: istiod lets it
// ask for certificates in the name of the pods of its node.
const NodeAccount = "duomesh-agent"

// Files of istiod, in Config.Dir.
const (
	istiodKubeconfig = "istiod.kubeconfig"
	istiodToken      = "istiod.token"
	rootsFile        = "root-cert.pem"
)

func (c Config) istiodCommand() Command {
	port := func(flag string, n int) string { return "--" + flag + "=:" + strconv.Itoa(n) }
	return Command{
		Argv: []string{
			c.Binaries.Istiod, "discovery", "--kubeconfig=" + filepath.Join(c.Dir, istiodKubeconfig),
			port("httpAddr", readyPort), port("httpsAddr", 15017), port("grpcAddr", 15010),
			port("secureGRPCAddr", XDSPort), port("monitoringAddr", MonitoringPort),
			"--ctrlz_address=127.0.0.1", "--domain=cluster.local",
		},
		Env: append([]string{
			"POD_NAME=" + istiodPod, "POD_NAMESPACE=" + RootNamespace, "SERVICE_ACCOUNT=istiod", "REVISION=default",
			"CLUSTER_ID=" + ClusterID, "PILOT_ENABLE_AMBIENT=true", "PILOT_CERT_PROVIDER=istiod",
			"CA_TRUSTED_NODE_ACCOUNTS=" + RootNamespace + "/ztunnel," + RootNamespace + "/" + NodeAccount,
			"ENABLE_LEADER_ELECTION=false", "PILOT_ENABLE_STATUS=true", "PILOT_ENABLE_ANALYSIS=false",
			"VALIDATION_WEBHOOK_CONFIG_NAME=", "INJECTION_WEBHOOK_CONFIG_NAME=",
		}, c.IstiodEnv...),
		Dir: c.Dir,
	}
}

// istiodPod is istiod's own Pod object.
const istiodPod = "istiod-0"

// StartIstiod starts istiod and returns when it is ready and its root certificate
// is in RootsFile.
func (s *Stack) StartIstiod(ctx context.Context) error {
	if err := s.istiod.run(ctx, s.cfg.istiodCommand()); err != nil {
		return err
	}
	return s.awaitRoots(ctx)
}

// KillIstiod ends istiod by SIGKILL, and returns when it is dead.
func (s *Stack) KillIstiod() error { return s.istiod.kill() }

// IstiodRuns reports whether istiod runs.
func (s *Stack) IstiodRuns() bool { return s.istiod.running() }

// RootsFile has the certificates that sign istiod's, in PEM.
func (s *Stack) RootsFile() string { return filepath.Join(s.cfg.Dir, rootsFile) }

// XDSAddress is where istiod is asked, with TLS.
func (s *Stack) XDSAddress() string {
	return net.JoinHostPort(s.cfg.Addresses[0].String(), strconv.Itoa(XDSPort))
}

// awaitRoots waits until istiod has published its root certificate.
func (s *Stack) awaitRoots(ctx context.Context) error {
	const name = "istio-ca-root-cert"
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		m, err := s.client.CoreV1().ConfigMaps(RootNamespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && strings.Contains(m.Data[rootsFile], "BEGIN CERTIFICATE") {
			return replaceFile(s.RootsFile(), []byte(m.Data[rootsFile]))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("istiod does not publish its root certificate: %w: %w", context.Cause(ctx), err)
		}
	}
}
