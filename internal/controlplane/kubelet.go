package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

// Node is a simulated machine.
type Node struct {
	Name      string
	Addresses []netip.Addr
	Labels    map[string]string
}

// Pod is a simulated pod: whoever creates a Pod object of its name gets it.
type Pod struct {
	Namespace string
	Name      string
	Node      string
	// ServiceAccount is "default" where it is empty.
	ServiceAccount string
	// Addresses are the pod's own, IPv4 first.
	Addresses   []netip.Addr
	HostNetwork bool
	Labels      map[string]string
	Ports       []corev1.ContainerPort
	// Unready pods run and are not ready, until SetReady.
	Unready bool
}

func (p Pod) key() string { return p.Namespace + "/" + p.Name }

// kubelet plays the kubelets of all nodes, and what kube-controller-manager does
// for Services and namespaces, and for what Gateways leave.
type kubelet struct {
	client kubernetes.Interface
	log    *slog.Logger
	cancel context.CancelFunc
	shared informers.SharedInformerFactory
	slices *endpointSlices
	says   *announcer
	waste  *garbage
	wg     sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]Node
	pods  map[string]Pod
}

func openKubelet(ctx context.Context, c clients, log *slog.Logger) (*kubelet, error) {
	client := c.client
	life, cancel := context.WithCancel(context.Background())
	k := &kubelet{
		client: client, log: log, cancel: cancel, shared: informers.NewSharedInformerFactory(client, 0),
		nodes: map[string]Node{}, pods: map[string]Pod{},
	}
	work := func(f func(context.Context, any)) cache.ResourceEventHandlerFuncs {
		return cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { f(life, o) },
			UpdateFunc: func(_, o any) { f(life, o) },
		}
	}
	_, podErr := k.shared.Core().V1().Pods().Informer().AddEventHandler(work(k.seePod))
	_, nsErr := k.shared.Core().V1().Namespaces().Informer().AddEventHandler(work(k.seeNamespace))
	var sliceErr, sayErr, wasteErr error
	k.slices, sliceErr = newSlices(client, k.shared, log)
	k.says, sayErr = newAnnouncer(c, k.shared, log, announcePatience)
	k.waste, wasteErr = watchGarbage(c, k.shared, log)
	if err := errors.Join(podErr, nsErr, sliceErr, sayErr, wasteErr, watchDeployments(life, client, k.shared, log)); err != nil {
		k.close()
		return nil, fmt.Errorf("watch the API server: %w", err)
	}
	k.shared.Start(life.Done())
	for kind, ok := range k.shared.WaitForCacheSync(ctx.Done()) {
		if !ok {
			k.close()
			return nil, fmt.Errorf("watch %v: %w", kind, context.Cause(ctx))
		}
	}
	k.wg.Go(func() { k.slices.run(life) })
	k.wg.Go(func() { k.says.run(life) })
	k.wg.Go(func() { k.waste.run(life) })
	return k, nil
}

// close ends all watching. A nil value is closed.
func (k *kubelet) close() {
	if k == nil {
		return
	}
	k.cancel()
	k.slices.stop()
	k.says.stop()
	k.waste.stop()
	k.shared.Shutdown()
	k.wg.Wait()
}

func gone(err error) bool { return apierrors.IsNotFound(err) }

// seeNamespace gives a namespace the ServiceAccount that pods without one have.
func (k *kubelet) seeNamespace(ctx context.Context, o any) {
	ns, ok := o.(*corev1.Namespace)
	if !ok || ns.DeletionTimestamp != nil {
		return
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: ns.Name}}
	_, err := k.client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		k.log.Warn("a namespace got no default ServiceAccount", "namespace", ns.Name, "error", err)
	}
}

// seePod says of a Pod that the simulation knows that it runs, once: what others
// write into its status later stays. One that is being deleted is let go.
func (k *kubelet) seePod(ctx context.Context, o any) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	k.mu.Lock()
	known, mine := k.pods[pod.Namespace+"/"+pod.Name]
	host := k.nodes[known.Node]
	k.mu.Unlock()
	if !mine {
		return
	}
	var err error
	switch {
	case pod.DeletionTimestamp != nil:
		err = k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
	case pod.Status.PodIP == "":
		err = k.report(ctx, pod, known, host)
	}
	if err != nil && ctx.Err() == nil && !gone(err) && !apierrors.IsConflict(err) {
		k.log.Warn("the status of a pod could not be written", "pod", known.key(), "error", err)
	}
}

func (k *kubelet) report(ctx context.Context, pod *corev1.Pod, known Pod, host Node) error {
	pod = pod.DeepCopy()
	if pod.Spec.NodeName == "" {
		return k.bind(ctx, pod, known)
	}
	pod.Status = statusOf(pod, known, host)
	_, err := k.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// bind does the scheduler's work; the status follows with the next event.
func (k *kubelet) bind(ctx context.Context, pod *corev1.Pod, known Pod) error {
	return k.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: known.Node},
	}, metav1.CreateOptions{})
}

func statusOf(pod *corev1.Pod, known Pod, host Node) corev1.PodStatus {
	now := metav1.Now()
	status := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now}
	for i, a := range known.Addresses {
		if i == 0 {
			status.PodIP = a.String()
		}
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	for i, a := range host.Addresses {
		if i == 0 {
			status.HostIP = a.String()
		}
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: a.String()})
	}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		holds := corev1.ConditionTrue
		if known.Unready && (t == corev1.ContainersReady || t == corev1.PodReady) {
			holds = corev1.ConditionFalse
		}
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: t, Status: holds, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: !known.Unready, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return status
}

// AddNode makes a node known to Kubernetes.
func (s *Stack) AddNode(ctx context.Context, n Node) error {
	k := s.kubelet
	k.mu.Lock()
	k.nodes[n.Name] = n
	k.mu.Unlock()
	if err := s.Apply(ctx, nodeObject(n)); err != nil {
		return err
	}
	node, err := s.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	now := metav1.Now()
	node.Status.Addresses = nil
	for _, a := range n.Addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	if _, err := s.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	return nil
}

// AddPod creates a Pod and returns when it is Running and Ready. From then on a Pod
// of this name is let go when it is deleted, and runs when it is created again.
func (s *Stack) AddPod(ctx context.Context, p Pod) error {
	k := s.kubelet
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default"
	}
	k.mu.Lock()
	k.pods[p.key()] = p
	k.mu.Unlock()
	if err := s.Apply(ctx, podObject(p)); err != nil {
		return err
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		pod, err := k.shared.Core().V1().Pods().Lister().Pods(p.Namespace).Get(p.Name)
		if err == nil && pod.Status.PodIP != "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("pod %s gets no status: %w", p.key(), context.Cause(ctx))
		}
	}
}

// LabelPod makes the labels of p those of its Pod, if there is one.
func (s *Stack) LabelPod(ctx context.Context, p Pod) error {
	_, err := s.client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if gone(err) {
		return nil
	}
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default"
	}
	return s.Apply(ctx, podObject(p))
}

// SetReady writes whether a Pod is ready into its status, as kubelet does, and keeps it
// for a Pod of this name that is made later.
func (s *Stack) SetReady(ctx context.Context, namespace, name string, ready bool) error {
	k := s.kubelet
	k.mu.Lock()
	if p, known := k.pods[namespace+"/"+name]; known {
		p.Unready = !ready
		k.pods[p.key()] = p
	}
	k.mu.Unlock()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Status.PodIP == "" {
			return nil // it has no status yet, which will say so
		}
		if !setReady(&pod.Status, ready) {
			return nil
		}
		_, err = s.client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	})
	if err != nil && !gone(err) {
		return fmt.Errorf("readiness of pod %s/%s: %w", namespace, name, err)
	}
	return nil
}

// setReady makes all that a status says of readiness agree, and reports whether that was
// a change.
func setReady(s *corev1.PodStatus, ready bool) (changed bool) {
	want := corev1.ConditionFalse
	if ready {
		want = corev1.ConditionTrue
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if (c.Type == corev1.ContainersReady || c.Type == corev1.PodReady) && c.Status != want {
			c.Status, c.LastTransitionTime, changed = want, metav1.Now(), true
		}
	}
	for i := range s.ContainerStatuses {
		if c := &s.ContainerStatuses[i]; c.Ready != ready {
			c.Ready, changed = ready, true
		}
	}
	return changed
}

// RemovePod deletes a Pod; the simulation does not know it any more.
func (s *Stack) RemovePod(ctx context.Context, namespace, name string) error {
	k := s.kubelet
	k.mu.Lock()
	delete(k.pods, namespace+"/"+name)
	k.mu.Unlock()
	return s.Delete(ctx, podObject(Pod{Namespace: namespace, Name: name}))
}

// RemoveNode deletes a Node.
func (s *Stack) RemoveNode(ctx context.Context, name string) error {
	k := s.kubelet
	k.mu.Lock()
	delete(k.nodes, name)
	k.mu.Unlock()
	return s.Delete(ctx, nodeObject(Node{Name: name}))
}
