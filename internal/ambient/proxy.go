package ambient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// proxy is one node's proxy and what it is given.
type proxy struct {
	mesh    *Mesh
	node    Node
	version string
	zds     *zdsServer
	stopCA  func() error
	proc    Process
	asked   *Running
}

// Where a node proxy answers, in its node's or its pod's namespace.
const (
	adminAddress   = "127.0.0.1:15000"
	caAddress      = "127.0.0.1:15012"
	metricsAddress = "127.0.0.1:15020"
	readyAddress   = "127.0.0.1:15021"
)

// readyPatience bounds the start of a proxy; it takes a tenth of a second.
const (
	readyPatience = 20 * time.Second
	readyPoll     = 20 * time.Millisecond
	stopPatience  = 5 * time.Second
	// answerPatience bounds one answer of a proxy that stands.
	answerPatience = 10 * time.Second
	// versionPatience bounds the first start of a large program on a busy machine.
	versionPatience = 30 * time.Second
)

func (p *proxy) open(ctx context.Context) (err error) {
	if p.version, err = versionOf(ctx, *p.node.Program); err != nil {
		return err
	}
	var pods []Pod
	for _, pod := range p.mesh.cfg.Pods {
		if pod.Node == p.node.Name {
			pods = append(pods, pod)
		}
	}
	if p.zds, err = serveZDS(p.file("zds"), pods); err != nil {
		return err
	}
	l, err := listenIn(p.node.Netns, caAddress)
	if err != nil {
		return fmt.Errorf("listen for certificate requests: %w", err)
	}
	if p.stopCA, err = p.mesh.ca.serve(l); err != nil {
		return errors.Join(err, l.Close())
	}
	p.asked = At(p.node.Netns)
	log, err := os.Create(p.file("log"))
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	// The process outlives the call that starts it.
	p.proc, err = p.node.Start(context.WithoutCancel(ctx), Command{
		Path: p.node.Program.Binary, Argv: p.node.Program.Argv, Env: p.environment(), Dir: p.mesh.dir, Log: log,
	})
	if err != nil {
		return err
	}
	return p.await(ctx)
}

func (p *proxy) file(kind string) string { return filepath.Join(p.mesh.dir, p.node.Name+"."+kind) }

// environment is ztunnel's configuration in shared mode. XDS_ADDRESS must be
// there and empty, or it asks an istiod.
func (p *proxy) environment() []string {
	cfg := p.mesh.cfg
	level := "info"
	if !cfg.AccessLog {
		level += ",access=off"
	}
	return []string{
		"PROXY_MODE=shared", "NODE_NAME=" + p.node.Name, "CLUSTER_ID=" + clusterID,
		"INPOD_UDS=" + p.file("zds"), "XDS_ADDRESS=", "LOCAL_XDS_PATH=" + filepath.Join(p.mesh.dir, workloadsFile),
		"CA_ADDRESS=https://localhost:15012", "CA_ROOT_CA=" + filepath.Join(p.mesh.dir, rootFile),
		"ZTUNNEL_WORKER_THREADS=" + strconv.Itoa(cfg.Workers), "RUST_LOG=" + level, "IPV6_ENABLED=false",
	}
}

// await returns when the proxy took every pod and says that it is ready.
func (p *proxy) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	select {
	case err := <-p.zds.ended:
		if err != nil {
			return fmt.Errorf("%w%s", err, p.lastWords())
		}
	case <-p.proc.Done():
		return p.check()
	case <-ctx.Done():
		return fmt.Errorf("the node proxy does not ask for its pods: %w%s", ctx.Err(), p.lastWords())
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.proc.Done():
			return p.check()
		case <-ctx.Done():
			return fmt.Errorf("the node proxy does not become ready: %w%s", err, p.lastWords())
		}
	}
}

func (p *proxy) ready(ctx context.Context) error {
	_, err := p.asked.get(ctx, "http://"+readyAddress+"/healthz/ready")
	return err
}

// check returns an error when the process has ended.
func (p *proxy) check() error {
	select {
	case <-p.proc.Done():
		err := p.proc.Wait()
		if err == nil {
			err = errors.New("exit code 0")
		}
		return fmt.Errorf("the node proxy has ended: %w%s", err, p.lastWords())
	default:
		return nil
	}
}

// lastWords is the end of the proxy's log, and where all of it stays.
func (p *proxy) lastWords() string {
	const most = 600
	b, err := os.ReadFile(p.file("log"))
	if err != nil {
		return "; its log cannot be read: " + err.Error()
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "; it said nothing"
	}
	kept, err := keep(p.node.Name, b)
	if err != nil {
		return fmt.Sprintf("; it said: %s (and its log cannot be kept: %v)", text, err)
	}
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return fmt.Sprintf("; it said: %s (all of it: %s)", text, kept)
}

// keep writes a log to where it outlives the mesh.
func keep(node string, log []byte) (string, error) {
	f, err := os.CreateTemp("", "duomesh-node-proxy-"+node+"-*.log")
	if err != nil {
		return "", err
	}
	_, err = f.Write(log)
	return f.Name(), errors.Join(err, f.Close())
}

func (p *proxy) close() error {
	var errs []error
	if p.proc != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
		p.proc.Stop(ctx)
		cancel()
	}
	if p.asked != nil {
		p.asked.Close()
	}
	if p.stopCA != nil {
		errs = append(errs, p.stopCA())
	}
	if p.zds != nil {
		errs = append(errs, p.zds.close())
	}
	return errors.Join(errs...)
}

// Version is what a ztunnel says of itself.
func Version(ctx context.Context, path string) (string, error) {
	return versionOf(ctx, Program{Binary: path, Argv: []string{path}})
}

// versionOf asks a proxy what it is. A ztunnel answers "version" with a line of
// fields.
func versionOf(ctx context.Context, p Program) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Binary, "version")
	cmd.Args[0] = p.Argv[0]
	b, err := cmd.Output()
	said := strings.Join(strings.Fields(string(b)), " ")
	if err == nil && said == "" {
		err = errors.New("it says nothing")
	}
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", p.Binary, err)
	}
	return said, nil
}

// residentBytes reads VmRSS of a process (proc_pid_status(5)).
func residentBytes(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of the node proxy: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseUint(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS: it has ended", pid)
}
