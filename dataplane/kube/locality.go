package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// subzoneLabel is Istio's: Kubernetes knows no subzones.
const subzoneLabel = "topology.istio.io/subzone"

// Locality reads region, zone and subzone from a node's labels; what it does not
// have is "".
func Locality(ctx context.Context, client kubernetes.Interface, node string) (region, zone, subzone string, err error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return "", "", "", fmt.Errorf("labels of node %s: %w", node, err)
	}
	return n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelTopologyZone], n.Labels[subzoneLabel], nil
}
