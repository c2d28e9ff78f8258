package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/duomesh/duomesh/internal/cluster"
)

func TestNoCluster(t *testing.T) {
	k := kubeCLI{t: t, kubeconfig: filepath.Join(t.TempDir(), "none")}
	k.want(2, "none: there is no such file", "enroll", "namespace", "default")
	c := api.NewConfig()
	c.Clusters["c"] = &api.Cluster{Server: "https://127.0.0.1:1"}
	c.Contexts["x"] = &api.Context{Cluster: "c"}
	c.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*c, k.kubeconfig); err != nil {
		t.Fatal(err)
	}
	k.want(1, "the API server https://127.0.0.1:1 does not answer", "enroll", "namespace", "default")
	k.want(2, "context \"other\" does not exist", "install", "--context", "other")
}

// A server that answers, but not to these credentials, is not looked for elsewhere.
func TestStrangeCredentials(t *testing.T) {
	k := newKubeCLI(t)
	c, err := clientcmd.LoadFromFile(k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c.AuthInfos["u"].Token = "of another cluster"
	if err := clientcmd.WriteToFile(*c, k.kubeconfig); err != nil {
		t.Fatal(err)
	}
	if out := k.want(1, "does not take the kubeconfig's credentials", "status", "--kubeconfig", k.kubeconfig); strings.Contains(out, "does not answer") {
		t.Errorf("a server that answers is said not to: %s", out)
	}
	// Nor is one that knows them and lets them ask nothing.
	for _, asks := range []string{"system:public-info-viewer", "system:discovery"} {
		if err := k.Client.RbacV1().ClusterRoleBindings().Delete(t.Context(), asks, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	somebody, err := cluster.Connect(k.As("somebody"), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = cluster.Await(ctx, func(ctx context.Context) (string, error) {
		err := somebody.Reach(ctx)
		if err == nil {
			return "somebody may still ask", nil
		}
		if !strings.Contains(err.Error(), "does not let the kubeconfig's user ask for its version") {
			return "", err
		}
		return "", nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Who may change pods of one namespace alone is not told what he may not see.
func TestEnrollWithoutAView(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("shop")
	c, err := cluster.Connect(k.As("somebody"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if c.NoAgents(t.Context()) {
		t.Error("who may not look is sure that there is none")
	}
	if err := c.Reach(t.Context()); err != nil {
		t.Errorf("who is known cannot reach it: %v", err)
	}
	if !k.client().NoAgents(t.Context()) {
		t.Error("who may look does not see that there is none")
	}
}
