// Package kube enrols the pods of a Kubernetes node. It watches the pods of its
// node and the labels of all namespaces, decides which pods are to be managed,
// finds those that run already by their UID, and comes to the agent through the
// enrolment socket as any other enroller does. What the kernel has confirmed it
// writes on the pod as an annotation.
//
// For pods that are about to start it answers the agent's question (agent.Admission).
package kube
