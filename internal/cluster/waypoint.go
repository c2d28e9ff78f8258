package cluster

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// WaypointClass is the class of the Gateways of which istiod makes waypoints.
const WaypointClass = "istio-waypoint"

// Waypoint is the Gateway of which istiod makes a waypoint: traffic is what it is for, as
// in the label istio.io/waypoint-for; "" leaves that to istiod.
func Waypoint(namespace, name, traffic string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"spec": map[string]any{
			"gatewayClassName": WaypointClass,
			"listeners":        []any{map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}},
		},
	}}
	o.SetName(name)
	o.SetNamespace(namespace)
	if traffic != "" {
		o.SetLabels(map[string]string{"istio.io/waypoint-for": traffic})
	}
	return o
}
