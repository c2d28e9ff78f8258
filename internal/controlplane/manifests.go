package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

// kept are the kinds of istio's manifests that a control plane of processes needs:
// nothing here runs a Deployment, and a webhook would ask a Service that nobody
// answers for.
var kept = []string{
	"CustomResourceDefinition", "Namespace", "ServiceAccount", "ConfigMap", "Service",
	"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
}

// manifests are istio's, as istioctl makes them, and those of the Gateway API.
func (b Binaries) manifests(ctx context.Context) ([]*unstructured.Unstructured, error) {
	cmd := exec.CommandContext(ctx, b.Istioctl, "manifest", "generate", "--set", "profile=ambient")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("istioctl manifest generate: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	all, err := cluster.Decode(out)
	if err != nil {
		return nil, fmt.Errorf("read istio's manifests: %w", err)
	}
	all = slices.DeleteFunc(all, func(o *unstructured.Unstructured) bool { return !slices.Contains(kept, o.GetKind()) })
	gateway, err := b.gatewayCRDs()
	return append(all, gateway...), err
}

func (b Binaries) gatewayCRDs() ([]*unstructured.Unstructured, error) {
	if b.GatewayCRDs == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(b.GatewayCRDs, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(fmt.Errorf("no definitions of the Gateway API in %s", b.GatewayCRDs), err)
	}
	var all []*unstructured.Unstructured
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read definitions of the Gateway API: %w", err)
		}
		some, err := cluster.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		for _, o := range some {
			if o.GetKind() == "CustomResourceDefinition" {
				all = append(all, o)
			}
		}
	}
	return all, nil
}
