package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// object makes an object of the core API.
func object(kind, namespace, name string, rest map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	for k, v := range rest {
		o.Object[k] = v
	}
	o.SetName(name)
	if namespace != "" {
		o.SetNamespace(namespace)
	}
	return o
}

func namespaceObject(name string) *unstructured.Unstructured {
	return object("Namespace", "", name, nil)
}

func accountObject(namespace, name string) *unstructured.Unstructured {
	return object("ServiceAccount", namespace, name, nil)
}

func nodeObject(n Node) *unstructured.Unstructured {
	o := object("Node", "", n.Name, nil)
	labels := map[string]string{corev1.LabelHostname: n.Name}
	for k, v := range n.Labels {
		labels[k] = v
	}
	o.SetLabels(labels)
	return o
}

func podObject(p Pod) *unstructured.Unstructured {
	container := map[string]any{"name": "traffic", "image": "duomesh.io/netsim"}
	var ports []any
	for _, port := range p.Ports {
		ports = append(ports, map[string]any{
			"name": port.Name, "containerPort": int64(port.ContainerPort), "protocol": string(port.Protocol),
		})
	}
	if len(ports) > 0 {
		container["ports"] = ports
	}
	spec := map[string]any{
		"nodeName": p.Node, "serviceAccountName": p.ServiceAccount, "containers": []any{container},
		"automountServiceAccountToken": false,
	}
	if p.HostNetwork {
		spec["hostNetwork"] = true
	}
	o := object("Pod", p.Namespace, p.Name, map[string]any{"spec": spec})
	o.SetLabels(p.Labels)
	return o
}
