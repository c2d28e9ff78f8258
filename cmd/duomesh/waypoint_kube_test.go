package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	agentapi "github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// defineKinds makes Gateway and ServiceEntry known, without their schemas.
func (k kubeCLI) defineKinds() {
	k.t.Helper()
	const definition = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]ss.%[1]s, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/1"}}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: %[3]s, plural: %[2]ss, singular: %[2]s}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`
	text := fmt.Sprintf(definition, gatewayGroup, "gateway", "Gateway") +
		strings.ReplaceAll(fmt.Sprintf(definition, "networking.istio.io", "serviceentry", "ServiceEntry"), "serviceentrys", "serviceentries")
	file := filepath.Join(k.t.TempDir(), "kinds.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.Define(k.t, file)
}

func (k kubeCLI) client() *cluster.Client {
	k.t.Helper()
	c, err := cluster.Connect(k.Config, "default")
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

func (k kubeCLI) apply(objects ...*unstructured.Unstructured) {
	k.t.Helper()
	if err := k.client().Apply(k.t.Context(), cluster.ApplyOptions{}, objects...); err != nil {
		k.t.Fatal(err)
	}
}

// user is an object with labels that name a waypoint.
func user(version, kind, namespace, name, spec string, labels map[string]string) *unstructured.Unstructured {
	all, err := cluster.Decode([]byte(fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s}, spec: %s}", version, kind, name, cmp.Or(spec, "{}"))))
	if err != nil {
		panic(err)
	}
	if spec == "" {
		delete(all[0].Object, "spec")
	}
	all[0].SetNamespace(namespace)
	all[0].SetLabels(labels)
	return all[0]
}

// labelsOf are an object's as the server has it.
func (k kubeCLI) labelsOf(o *unstructured.Unstructured) map[string]string {
	k.t.Helper()
	r, err := k.client().Resource(o)
	if err != nil {
		k.t.Fatal(err)
	}
	now, err := r.Get(k.t.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	return now.GetLabels()
}

const (
	servicePort = "{ports: [{port: 80}]}"
	onePod      = "{containers: [{name: one, image: image}]}"
)

// A waypoint that is named and not there is listed as such; "none" names no waypoint.
func TestWaypointThatIsNotThere(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	k.want(0, "there is no waypoint", "waypoint", "list")
	k.apply(cluster.Waypoint("shop", "there", ""),
		user("v1", "Service", "shop", "served", servicePort, map[string]string{useWaypoint: "there"}),
		user("v1", "Service", "shop", "opted-out", servicePort, map[string]string{useWaypoint: "none"}))
	if out := k.want(0, "shop/there", "waypoint", "list"); strings.Contains(out, notThere) || strings.Contains(out, "opted-out") {
		t.Errorf("one is said not to be there:\n%s", out)
	}
	k.apply(user("v1", "Service", "shop", "orphan", servicePort, map[string]string{useWaypoint: "gone"}))
	line := regexp.MustCompile(`shop/gone +│ ` + notThere + ` +│ 0/0 +│ orphan `)
	if out := k.want(0, notThere, "waypoint", "list"); !line.MatchString(out) {
		t.Errorf("it says\n%s", out)
	}
	k.want(0, "there is no waypoint", "waypoint", "list", "-n", "default")
}

// A waypoint is deleted when nothing names it, of whatever kind and namespace; what names
// another one of the same name keeps its label.
func TestWaypointDelete(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	k.makeNamespace("other")
	ingress := cluster.Waypoint("shop", "ingress", "")
	if err := unstructured.SetNestedField(ingress.Object, "istio", "spec", "gatewayClassName"); err != nil {
		t.Fatal(err)
	}
	k.apply(ingress, cluster.Waypoint("shop", "waypoint", ""), cluster.Waypoint("other", "waypoint", ""))
	for _, act := range []string{"delete", "apply", "status"} {
		k.want(1, "shop/ingress is a Gateway of class istio, and no waypoint", "waypoint", act, "-n", "shop", "ingress")
	}
	own := map[string]string{useWaypoint: "waypoint"}
	of := func(namespace string) map[string]string {
		return map[string]string{useWaypoint: "waypoint", useWaypointOf: namespace}
	}
	users := []*unstructured.Unstructured{
		user("v1", "Service", "shop", "web", servicePort, own),
		user("v1", "Service", "other", "far", servicePort, of("shop")),
		user("v1", "Pod", "shop", "pod", onePod, own),
		user("networking.istio.io/v1", "ServiceEntry", "shop", "entry", "{}", own),
		user("v1", "Namespace", "", "other", "{}", of("shop")),
	}
	others := []*unstructured.Unstructured{
		user("v1", "Service", "other", "near", servicePort, own),
		user("v1", "Service", "shop", "leads-away", servicePort, of("other")),
	}
	k.apply(append(users, others...)...)
	k.want(0, `"Namespace other"`, "waypoint", "list", "-o", "json")
	k.makeNode("node", corev1.ConditionTrue)
	agent := k.makePod("shop", "agent", "node", agentLabels, runs)
	// No agent says that it has heard of it.
	k.want(1, "waypoint shop/waypoint stays until no agent hands it connections", "waypoint", "delete", "-n", "shop", "--system-namespace", "shop", "--timeout=6s")
	k.labelsOf(cluster.Waypoint("shop", "waypoint", ""))
	for _, o := range users {
		if got := k.labelsOf(o); got[useWaypoint] != "" || got[useWaypointOf] != "" {
			t.Errorf("%s still has %v", cluster.Name(o), got)
		}
	}
	for _, o := range others {
		if got := k.labelsOf(o); got[useWaypoint] != "waypoint" {
			t.Errorf("%s has lost its label: %v", cluster.Name(o), got)
		}
	}
	k.collectGarbage("shop", "waypoint")
	k.want(0, "deleted waypoint shop/waypoint", "waypoint", "delete", "-n", "shop", "--system-namespace", "shop", "--wait=false")
	k.want(1, "there is no waypoint waypoint in namespace shop", "waypoint", "delete", "-n", "shop")
	if err := k.Client.CoreV1().Pods("shop").Delete(t.Context(), agent.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// collectGarbage lets a Gateway go of which nobody made anything.
func (k kubeCLI) collectGarbage(namespace, name string) {
	c, o := k.client(), cluster.Waypoint(namespace, name, "")
	r, err := c.Resource(o)
	if err != nil {
		k.t.Fatal(err)
	}
	k.play(func(ctx context.Context) {
		if now, err := r.Get(ctx, name, metav1.GetOptions{}); err == nil && now.GetDeletionTimestamp() != nil {
			_, _ = r.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}) // or the next time
		}
	})
}

// An agent is asked for services, and for workloads of their own.
func TestStillUse(t *testing.T) {
	header := func(schema string) agentapi.Header {
		return agentapi.Header{Schema: schema, Version: agentapi.Version}
	}
	c := agentapi.NewClient(agentapi.Place{Address: fakeAdmin(t, map[string]any{
		"/services": agentapi.Services{Header: header(agentapi.ServicesSchema), Services: []agentapi.Service{
			{Name: "shop/web", Waypoint: "shop/waypoint"}, {Name: "shop/other", Waypoint: "shop/waypoint2"}, {Name: "shop/none"},
		}},
		"/workloads": agentapi.Workloads{Header: header(agentapi.WorkloadsSchema), Workloads: []agentapi.Workload{
			{Name: "shop/pod", Waypoint: "shop/waypoint"}, {Name: "shop/none"},
		}},
	})})
	defer c.Close()
	got, err := stillUse(t.Context(), c, "shop/waypoint")
	if want := "service shop/web, workload shop/pod"; err != nil || strings.Join(got, ", ") != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
}

// playIstiod programs the waypoint of namespace shop, and makes a pod of it that is ready.
func (k kubeCLI) playIstiod() {
	r, err := k.client().Resource(cluster.Waypoint("shop", "waypoint", ""))
	if err != nil {
		k.t.Fatal(err)
	}
	k.play(func(ctx context.Context) {
		status := []byte(`{"status":{"conditions":[{"type":"Programmed","status":"True"}]}}`)
		_, _ = r.Patch(ctx, "waypoint", types.MergePatchType, status, metav1.PatchOptions{}, "status") // or the next time
	})
	k.makePod("shop", "waypoint-1", "node", map[string]string{gatewayOfPod: "waypoint"}, runs)
}

// A Ready pod of Istio's own image takes no connection of ours: nothing is labelled.
func TestWaypointOfAnotherImage(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	service := user("v1", "Service", "shop", "web", servicePort, nil)
	k.apply(service)
	k.playIstiod()
	apply := []string{"waypoint", "apply", "-n", "shop", "--service", "web", "--timeout=6s"}
	out := k.want(1, "nothing is labelled: no ConfigMap has label gateway.istio.io/defaults-for-class=istio-waypoint", apply...)
	if !strings.Contains(out, "pod waypoint-1, of image image, does not answer as duomesh-waypoint") || strings.Contains(out, "takes connections") {
		t.Errorf("it says\n%s", out)
	}
	if got := k.labelsOf(service); got[useWaypoint] != "" {
		t.Errorf("the service uses a waypoint that refuses it: %v", got)
	}
	k.makeNamespace("istio-prod")
	k.installed("--set", "waypoint.namespace=istio-prod")
	k.want(1, "ConfigMap istio-prod/duomesh-waypoint-defaults sets the image where", apply...)
}

// One that answers does; of several every one that is ready must.
func TestWaypointThatAnswers(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	k.playIstiod()
	asked := 0
	answer := func(_ context.Context, _ *cluster.Client, p *corev1.Pod) error {
		if asked++; p.Name != "waypoint-1" && asked < 4 {
			return errors.New("connection refused")
		}
		return nil
	}
	k.makePod("shop", "waypoint-2", "node", map[string]string{gatewayOfPod: "waypoint"}, runs)
	k.makePod("shop", "waypoint-3", "node", map[string]string{gatewayOfPod: "waypoint"}, crashes)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := applyWaypoint(ctx, k.client(), cluster.Waypoint("shop", "waypoint", ""), answer); err != nil || asked < 4 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// replicasOf are two pods of a waypoint that answer, and one that is silent.
func replicasOf(t *testing.T) ([]corev1.Pod, reach) {
	t.Helper()
	addresses := map[string]string{"a": fakeWaypoint(t, "a"), "b": fakeWaypoint(t, "b"), "silent": "unix:" + filepath.Join(t.TempDir(), "none")}
	var pods []corev1.Pod
	for _, name := range []string{"a", "b", "silent"} {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: "node-" + name}}
		p.Status.Phase, p.Status.ContainerStatuses = corev1.PodRunning, []corev1.ContainerStatus{runs}
		pods = append(pods, p)
	}
	return pods, func(_ context.Context, p *corev1.Pod) (string, func(), error) {
		return addresses[p.Name], func() {}, nil
	}
}

// Each replica is asked and printed, and one that is silent hides no other.
func TestReplicas(t *testing.T) {
	pods, way := replicasOf(t)
	for what, c := range map[string]struct {
		question replicaQuestion
		print    func(io.Writer, replica)
		want     [2]string // of a and of b
		key      string    // in JSON
	}{
		"status":   {askStatus, printReplicaStatus, [2]string{"waypoint default/a: ready", "waypoint default/b: ready"}, `"ready": true`},
		"config":   {askConfig, nil, [2]string{"", ""}, `"config of": "b"`},
		"counters": {askCounters("counter"), printReplicaCounters, [2]string{"counter.of.a: 3", "counter.of.b: 3"}, `"counter.of.b": 3`},
	} {
		all, err := askReplicas(t.Context(), pods, way, c.question)
		if err == nil || !strings.Contains(err.Error(), "pod silent (is its image none duomesh-waypoint?)") || strings.Contains(err.Error(), "pod a") {
			t.Errorf("%s: %v", what, err)
		}
		var out bytes.Buffer
		if c.print != nil {
			printReplicas(&out, all, c.print)
			a, rest, found := strings.Cut(out.String(), "pod b on node node-b\n")
			b, silent, also := strings.Cut(rest, "pod silent on node node-silent\n")
			if !found || !also || !strings.Contains(a, c.want[0]) || !strings.Contains(b, c.want[1]) || !strings.Contains(silent, "is its image none") {
				t.Errorf("%s is printed as\n%s", what, &out)
			}
		}
		out.Reset()
		if err := encode(&out, "json", all); err != nil {
			t.Fatal(err)
		}
		var got []replica
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 3 || !strings.Contains(out.String(), c.key) {
			t.Errorf("%s in JSON: %v\n%s", what, err, &out)
		}
	}
}

// A replica that does not answer soon lets no other wait: here each answers when all are asked.
func TestReplicasAreAskedAtOnce(t *testing.T) {
	pods, way := replicasOf(t)
	all := rendezvous(len(pods))
	got, err := askReplicas(t.Context(), pods, way, func(ctx context.Context, _ *api.Client, _ *replica) error { return all(ctx) })
	if err != nil || len(got) != 3 || got[0].Pod != "a" || got[2].Pod != "silent" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Nothing is made for a service that is not there.
func TestWaypointForNoService(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	k.want(2, "--service: want the NAME", "waypoint", "apply", "-n", "shop", "--service", "")
	k.want(1, "there is no service nosuch in namespace shop: nothing is made", "waypoint", "apply", "-n", "shop", "--service", "nosuch")
	k.want(1, "there is no waypoint waypoint in namespace shop", "waypoint", "status", "waypoint", "-n", "shop")
}

// Which waypoint of a cluster, and which replica, is asked.
func TestWhichReplicas(t *testing.T) {
	k := newKubeCLI(t)
	k.defineKinds()
	k.makeNamespace("shop")
	const none = "there is no waypoint nowhere in namespace shop"
	k.want(1, none, "waypoint", "config", "nowhere", "-n", "shop")
	k.want(1, none, "waypoint", "config", "--changes", "nowhere", "-n", "shop", "--kubeconfig", k.kubeconfig)
	k.want(1, none, "waypoint", "stats", "--waypoint", "nowhere", "-n", "shop")
	k.want(1, none, "waypoint", "status", "nowhere", "-n", "shop")
	k.apply(cluster.Waypoint("shop", "waypoint", ""))
	k.want(1, "waypoint shop/waypoint has no pod", "waypoint", "config", "waypoint", "-n", "shop")
	k.makePod("shop", "waypoint-1", "node", map[string]string{gatewayOfPod: "waypoint"}, runs)
	k.makePod("shop", "waypoint-2", "node", map[string]string{gatewayOfPod: "waypoint"}, runs)
	k.want(2, "--pod waypoint-3: waypoint shop/waypoint has pods waypoint-1, waypoint-2", "waypoint", "config", "waypoint", "-n", "shop", "--pod", "waypoint-3")
	// Nobody plays kubelet, by whom a pod is reached: that is said of each, or of the one.
	for _, args := range [][]string{{"config", "waypoint"}, {"config", "--changes", "waypoint"}, {"stats", "--waypoint", "waypoint"}, {"status", "waypoint"}} {
		all := append(append([]string{"waypoint"}, args...), "-n", "shop")
		if out := k.want(1, "pod waypoint-1 (is its image image duomesh-waypoint?)", all...); !strings.Contains(out, "pod waypoint-2 (is") {
			t.Errorf("%v: one that does not answer hides another:\n%s", args, out)
		}
		if out := k.want(1, "pod waypoint-2 (is its image image duomesh-waypoint?)", append(all, "--pod", "waypoint-2")...); strings.Contains(out, "pod waypoint-1 (is") {
			t.Errorf("%v: it asks others, too:\n%s", args, out)
		}
	}
	for act, want := range map[string]string{"status": "the NAME", "config": "the NAME", "stats": "--waypoint with the NAME"} {
		want = "want " + want + " of a waypoint of the cluster"
		wantExit(t, 2, want, duomesh(t, "waypoint", act, "--namespace", "shop"))
		k.want(2, want, "waypoint", act, "--pod", "waypoint-1", "--run-dir", t.TempDir())
	}
	wantExit(t, 2, "must be table, json or yaml", duomesh(t, "waypoint", "status", "-o", "xml"))
	wantExit(t, 2, "REGEXP [: error parsing regexp", duomesh(t, "waypoint", "stats", "["))
}
