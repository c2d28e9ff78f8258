package kube

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// Labels and annotations by which users, Istio and Kubernetes speak to the agent.
const (
	// ModeLabel on a namespace or pod asks for a dataplane; on a pod it wins.
	ModeLabel = "istio.io/dataplane-mode"
	// RedirectionAnnotation is written on pods that the kernel redirects.
	RedirectionAnnotation = "kmesh.net/redirection"
	// RedirectionEnabled is its value.
	RedirectionEnabled = "enabled"

	modeNone          = "none"
	gatewayLabel      = "gateway.istio.io/managed"
	waypointManager   = "istio.io-mesh-controller"
	sidecarAnnotation = "sidecar.istio.io/status"
	sidecarContainer  = "istio-proxy"
	mirrorAnnotation  = corev1.MirrorPodAnnotationKey
	hashAnnotation    = "kubernetes.io/config.hash"
)

// Decide says whether a pod is to be managed by the labels of the pod and of its
// namespace, and why. own is the agent's namespace, which is never managed.
func Decide(pod *corev1.Pod, namespaceLabels map[string]string, own string) api.Verdict {
	if reason := excluded(pod, own); reason != "" {
		return api.Verdict{Reason: reason}
	}
	if mode, ok := pod.Labels[ModeLabel]; ok {
		return byMode("the pod", mode)
	}
	if mode, ok := namespaceLabels[ModeLabel]; ok {
		return byMode("namespace "+pod.Namespace, mode)
	}
	return api.Verdict{Reason: fmt.Sprintf("neither the pod nor namespace %s has label %s", pod.Namespace, ModeLabel)}
}

func byMode(who, mode string) api.Verdict {
	v := api.Verdict{Managed: ours(mode), Reason: fmt.Sprintf("%s has label %s=%s", who, ModeLabel, mode)}
	if !v.Managed && mode != modeNone {
		v.Reason += ", which is another dataplane"
	}
	return v
}

// ours reports whether a mode is this dataplane. Kmesh takes its name in any case.
func ours(mode string) bool {
	return strings.EqualFold(mode, "kmesh") || strings.EqualFold(mode, "duomesh")
}

// excluded is why a pod is never managed, whatever its labels; "" when it may be.
func excluded(pod *corev1.Pod, own string) string {
	switch {
	case pod.Spec.HostNetwork:
		return "it is on the host's network"
	case pod.Namespace == own:
		return "it is in the agent's own namespace"
	case pod.Labels[gatewayLabel] != "":
		return "it is a gateway or waypoint"
	case api.IsIstiod(pod.Labels):
		return "it is an istiod, by which the agents know what to do"
	case hasSidecar(pod):
		return "it has a sidecar"
	case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return "it has ended"
	}
	return ""
}

func hasSidecar(pod *corev1.Pod) bool {
	if pod.Annotations[sidecarAnnotation] != "" {
		return true
	}
	for _, all := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range all {
			if c.Name == sidecarContainer {
				return true
			}
		}
	}
	return false
}

// isWaypoint reports whether istiod made the pod for a waypoint, and it has a network
// namespace in which connections can be handed to it.
func isWaypoint(pod *corev1.Pod) bool {
	return pod.Labels[gatewayLabel] == waypointManager && !pod.Spec.HostNetwork &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// askedFor reports whether somebody has named this very pod: then it is worth an
// event when it cannot be managed.
func askedFor(pod *corev1.Pod) bool { return ours(pod.Labels[ModeLabel]) }

// nodeUID is the UID by which kubelet and the runtime know a pod on the node: of a
// static pod it is not that of the API, but the hash of its file.
func nodeUID(pod *corev1.Pod) string {
	if _, mirror := pod.Annotations[mirrorAnnotation]; mirror && pod.Annotations[hashAnnotation] != "" {
		return pod.Annotations[hashAnnotation]
	}
	return string(pod.UID)
}
