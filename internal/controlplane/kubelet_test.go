package controlplane

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// playedPod is a Pod as somebody applies it, with the labels that a Deployment selects.
func playedPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "waypoint", Labels: map[string]string{"app": "waypoint"}},
		Spec:       corev1.PodSpec{NodeName: "b", Containers: []corev1.Container{{Name: "traffic"}}},
	}
}

// wantReady holds all that a Pod's status says of readiness against one answer.
func wantReady(t *testing.T, s *Stack, ready bool) {
	t.Helper()
	p, err := s.client.CoreV1().Pods("default").Get(t.Context(), "waypoint", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	said := map[corev1.PodConditionType]bool{}
	for _, c := range p.Status.Conditions {
		said[c.Type] = c.Status == corev1.ConditionTrue
	}
	if len(p.Status.ContainerStatuses) != 1 {
		t.Fatalf("containers: %+v", p.Status.ContainerStatuses)
	}
	if said[corev1.PodReady] != ready || said[corev1.ContainersReady] != ready || p.Status.ContainerStatuses[0].Ready != ready {
		t.Errorf("want ready %t: conditions %v, container %t", ready, said, p.Status.ContainerStatuses[0].Ready)
	}
}

// What is said of a Pod's readiness agrees, and holds for the Pod that is made again.
func TestReadinessOutlivesThePod(t *testing.T) {
	client := fake.NewClientset()
	pods := client.CoreV1().Pods("default")
	known := Pod{Namespace: "default", Name: "waypoint", Node: "b", Addresses: []netip.Addr{netip.MustParseAddr("10.1.1.1")}, Unready: true}
	k := &kubelet{client: client, log: slog.New(slog.DiscardHandler), nodes: map[string]Node{}, pods: map[string]Pod{known.key(): known}}
	s := &Stack{clients: clients{client: client}, kubelet: k}
	apply := func() {
		t.Helper()
		p, err := pods.Create(t.Context(), playedPod(), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		k.seePod(t.Context(), p)
	}
	set := func(ready bool) {
		t.Helper()
		if err := s.SetReady(t.Context(), "default", "waypoint", ready); err != nil {
			t.Fatal(err)
		}
	}
	again := func() {
		t.Helper()
		if err := pods.Delete(t.Context(), "waypoint", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		apply()
	}
	apply()
	wantReady(t, s, false)
	set(true)
	wantReady(t, s, true)
	again()
	wantReady(t, s, true)
	set(false)
	wantReady(t, s, false)
	again()
	wantReady(t, s, false)
}

// A Deployment of a Gateway says how many of its pods are ready; those of others are not ours.
func TestStatusOfDeployments(t *testing.T) {
	deployment := func(name, owner string) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Generation: 2, OwnerReferences: []metav1.OwnerReference{{Kind: owner}}},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "waypoint"}}},
		}
	}
	pod := playedPod()
	pod.Status = statusOf(pod, Pod{Unready: true}, Node{})
	client := fake.NewClientset(deployment("waypoint", "Gateway"), deployment("other", "App"), pod)
	shared := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(t.Context())
	if err := watchDeployments(ctx, client, shared, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	defer shared.Shutdown()
	defer cancel()
	shared.Start(ctx.Done())
	awaitStatus(t, client, 1, 0)
	setReady(&pod.Status, true)
	if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, client, 1, 1)
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "waypoint", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, client, 0, 0)
	other, err := client.AppsV1().Deployments("default").Get(t.Context(), "other", metav1.GetOptions{})
	if err != nil || other.Status.ObservedGeneration != 0 {
		t.Errorf("of somebody else: %+v, %v", other.Status, err)
	}
}

func awaitStatus(t *testing.T, client *fake.Clientset, there, ready int32) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		d, err := client.AppsV1().Deployments("default").Get(t.Context(), "waypoint", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := d.Status
		if s.ObservedGeneration == 2 && s.Replicas == there && s.ReadyReplicas == ready && s.AvailableReplicas == ready && s.UnavailableReplicas == 1-ready {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("status %+v, want %d of %d", s, ready, there)
		case <-tick.C:
		}
	}
}
