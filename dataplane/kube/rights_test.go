package kube

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	authz "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"

	"github.com/duomesh/duomesh/internal/kubetest"
)

// account is the agent's, as the manifests bind it.
const account = "system:serviceaccount:duomesh-system:duomesh-agent"

// rights are the rules of the manifests.
type rights struct {
	cluster rbacv1.ClusterRole
	own     rbacv1.Role
}

func shipped(t *testing.T) rights {
	t.Helper()
	var r rights
	for _, o := range kubetest.Objects(t, "../../deploy/manifests/duomesh.yaml") {
		switch o.GetKind() {
		case "ClusterRole":
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r.cluster))
		case "Role":
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r.own))
		}
	}
	if len(r.cluster.Rules) == 0 || len(r.own.Rules) == 0 {
		t.Fatal("the manifests have no roles")
	}
	return r
}

// right is one verb on one resource.
type right struct{ group, resource, verb string }

// all lists every right of the rules, one by one.
func all(rules []rbacv1.PolicyRule) []right {
	var found []right
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					found = append(found, right{group, resource, verb})
				}
			}
		}
	}
	return found
}

// but returns rules that give everything but one right.
func but(rules []rbacv1.PolicyRule, without right) []rbacv1.PolicyRule {
	var left []rbacv1.PolicyRule
	for _, rule := range rules {
		for _, r := range all([]rbacv1.PolicyRule{rule}) {
			if r != without {
				left = append(left, rbacv1.PolicyRule{
					APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: []string{r.verb}, ResourceNames: rule.ResourceNames,
				})
			}
		}
	}
	return left
}

func (c *cluster) bind(r rights) {
	c.t.Helper()
	ctx, rbac := c.t.Context(), c.server.Client.RbacV1()
	_, err := rbac.ClusterRoles().Create(ctx, &r.cluster, metav1.CreateOptions{})
	must(c.t, err)
	_, err = rbac.Roles("duomesh-system").Create(ctx, &r.own, metav1.CreateOptions{})
	must(c.t, err)
	for _, o := range kubetest.Objects(c.t, "../../deploy/manifests/duomesh.yaml") {
		if o.GetKind() == "ClusterRoleBinding" || o.GetKind() == "RoleBinding" {
			must(c.t, c.server.Apply(ctx, o))
		}
	}
}

// grant replaces the rules and returns when the API server goes by them.
func (c *cluster) grant(r rights, changed right, has bool) {
	c.t.Helper()
	ctx, rbac := c.t.Context(), c.server.Client.RbacV1()
	_, err := rbac.ClusterRoles().Update(ctx, &r.cluster, metav1.UpdateOptions{})
	must(c.t, err)
	_, err = rbac.Roles("duomesh-system").Update(ctx, &r.own, metav1.UpdateOptions{})
	must(c.t, err)
	c.eventually(fmt.Sprintf("%v is %v", changed, has), func() bool { return c.may(changed) == has })
}

func (c *cluster) may(r right) bool {
	c.t.Helper()
	what := &authz.ResourceAttributes{Group: r.group, Resource: r.resource, Verb: r.verb, Namespace: "duomesh-system", Name: "duomesh-agent"}
	if resource, sub, ok := cutSub(r.resource); ok {
		what.Resource, what.Subresource = resource, sub
	}
	review := &authz.SubjectAccessReview{Spec: authz.SubjectAccessReviewSpec{User: account, ResourceAttributes: what}}
	answer, err := c.server.Client.AuthorizationV1().SubjectAccessReviews().Create(c.t.Context(), review, metav1.CreateOptions{})
	must(c.t, err)
	return answer.Status.Allowed
}

func cutSub(resource string) (string, string, bool) {
	for i := range resource {
		if resource[i] == '/' {
			return resource[:i], resource[i+1:], true
		}
	}
	return resource, "", false
}

// TestEveryRightIsNeeded takes each verb of the shipped roles away, one by one: the
// agent then says that it is forbidden, and which. With all of them it says nothing
// of the kind, so they are enough as well.
func TestEveryRightIsNeeded(t *testing.T) {
	c := startCluster(t) // client-go has one log for the whole process, and it is read here
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	live := c.pod("shop", "live", nil)
	c.live(live)
	// Without a process: its event is written again and again, which is a patch.
	c.running(c.pod("shop", "dead", nil))
	c.knowsGateways()
	whole := shipped(t)
	c.bind(whole)

	r := c.exercise()
	c.eventually("all has been done", func() bool { return c.annotation(live) == RedirectionEnabled })
	c.eventually("an event was written twice", func() bool { return c.counted() })
	r.stop()
	if r.log.has("forbidden") {
		t.Errorf("with all rights:\n%s", &r.log)
	}

	list := append(all(whole.cluster.Rules), all(whole.own.Rules)...)
	if len(list) < 10 || slices.Contains(list, right{"*", "*", "*"}) {
		t.Fatalf("rights are %v", list)
	}
	for _, one := range list {
		t.Run(fmt.Sprintf("%s %s", one.verb, one.resource), func(t *testing.T) {
			less := rights{*whole.cluster.DeepCopy(), *whole.own.DeepCopy()}
			less.cluster.Rules, less.own.Rules = but(less.cluster.Rules, one), but(less.own.Rules, one)
			c.grant(less, one, false)
			c.unmark(live)
			r := c.exercise()
			words := fmt.Sprintf("cannot %s resource", one.verb)
			c.eventually("the log says: "+words+" "+one.resource, func() bool {
				return r.log.has("forbidden", words, one.resource)
			})
			r.stop()
			c.grant(whole, one, true)
		})
	}
}

// exercise makes an agent of the account's rights do everything it ever does.
func (c *cluster) exercise() *running {
	c.t.Helper()
	config := c.server.As(account, "system:serviceaccounts", "system:authenticated")
	config.QPS = -1
	r := c.start(config)
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	klog.SetSlogLogger(log) // of the recorder of events
	client, err := kubernetes.NewForConfig(config)
	must(c.t, err)
	if _, _, _, err := Locality(c.t.Context(), client, nodeName); err != nil {
		log.Error("locality", "err", err)
	}
	meta, err := metadata.NewForConfig(config)
	must(c.t, err)
	_, err = WatchHandoffs(r.ctx, meta, log)
	must(c.t, err)
	go func() {
		for _, name := range []string{"shop/live", "shop/unheard"} {
			if _, err := r.Admit(r.ctx, name, ""); err != nil {
				log.Error("admit", "err", err)
			}
		}
	}()
	return r
}

// unmark takes an annotation away that an earlier agent has written.
func (c *cluster) unmark(pod *corev1.Pod) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, RedirectionAnnotation)
	_, err := c.server.Client.CoreV1().Pods(pod.Namespace).Patch(c.t.Context(), pod.Name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	must(c.t, err)
}

func (c *cluster) counted() bool {
	c.t.Helper()
	list, err := c.server.Client.CoreV1().Events("shop").List(c.t.Context(), metav1.ListOptions{})
	must(c.t, err)
	return slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Count > 1 })
}
