package controlplane

import (
	"context"
	"errors"
	"log/slog"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// deployments say of the Deployments that istiod makes for Gateways how many of their pods
// are there and ready, as Kubernetes' controller does. It makes no pods.
type deployments struct {
	client kubernetes.Interface
	log    *slog.Logger
	pods   corelisters.PodLister
	all    appslisters.DeploymentLister
}

// watchDeployments makes the informers tell of what changes.
func watchDeployments(life context.Context, client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) error {
	pods, all := shared.Core().V1().Pods(), shared.Apps().V1().Deployments()
	d := deployments{client: client, log: log, pods: pods.Lister(), all: all.Lister()}
	_, podErr := pods.Informer().AddEventHandler(handler(func(o any) {
		if p, ok := o.(*corev1.Pod); ok {
			d.seePod(life, p)
		}
	}))
	_, err := all.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { d.see(life, o) },
		UpdateFunc: func(_, o any) { d.see(life, o) },
	})
	return errors.Join(podErr, err)
}

// seePod looks at the Deployments that a pod may belong to.
func (d deployments) seePod(ctx context.Context, p *corev1.Pod) {
	all, err := d.all.Deployments(p.Namespace).List(labels.Everything())
	if err != nil {
		d.log.Warn("deployments could not be listed", "error", err)
		return
	}
	for _, one := range all {
		if selects(one, p) {
			d.see(ctx, one)
		}
	}
}

func selects(d *appsv1.Deployment, p *corev1.Pod) bool {
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return err == nil && s.Matches(labels.Set(p.Labels))
}

// see brings the status of a Deployment up to date. One that has changed meanwhile comes
// again.
func (d deployments) see(ctx context.Context, o any) {
	one, ok := o.(*appsv1.Deployment)
	if !ok || one.DeletionTimestamp != nil || !ofGateway(one) {
		return
	}
	pods, err := d.pods.Pods(one.Namespace).List(labels.Everything())
	if err != nil {
		d.log.Warn("pods could not be listed", "error", err)
		return
	}
	var there, ready int32
	for _, p := range pods {
		if !selects(one, p) || p.DeletionTimestamp != nil {
			continue
		}
		there++
		if isReady(p) {
			ready++
		}
	}
	next := one.DeepCopy()
	setDeploymentStatus(next, there, ready)
	if sameCounts(one.Status, next.Status) {
		return
	}
	_, err = d.client.AppsV1().Deployments(one.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && ctx.Err() == nil && !gone(err) && !apierrors.IsConflict(err) {
		d.log.Warn("the status of a deployment could not be written", "deployment", one.Namespace+"/"+one.Name, "error", err)
	}
}

func ofGateway(d *appsv1.Deployment) bool {
	for _, owner := range d.OwnerReferences {
		if owner.Kind == "Gateway" {
			return true
		}
	}
	return false
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func setDeploymentStatus(d *appsv1.Deployment, there, ready int32) {
	wanted := int32(1) // what the API server says where a Deployment says nothing
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	s := &d.Status
	s.ObservedGeneration = d.Generation
	s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas = there, there, ready, ready
	s.UnavailableReplicas = max(wanted-ready, 0)
	now := metav1.Now()
	available := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: "MinimumReplicasUnavailable",
		LastUpdateTime: now, LastTransitionTime: now,
	}
	if ready >= wanted {
		available.Status, available.Reason = corev1.ConditionTrue, "MinimumReplicasAvailable"
	}
	s.Conditions = []appsv1.DeploymentCondition{available}
}

func sameCounts(a, b appsv1.DeploymentStatus) bool {
	return a.ObservedGeneration == b.ObservedGeneration && a.Replicas == b.Replicas && a.ReadyReplicas == b.ReadyReplicas &&
		a.UnavailableReplicas == b.UnavailableReplicas && len(a.Conditions) == len(b.Conditions)
}
