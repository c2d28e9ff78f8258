package kube

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// UseWaypoint is the label by which a service names its waypoint.
const UseWaypoint = "istio.io/use-waypoint"

// gatewayVersion is the version of the Gateway API's objects.
const gatewayVersion = "gateway.networking.k8s.io/v1"

func gateway(name string, w World) *unstructured.Unstructured {
	o := object(gatewayVersion, "Gateway", name, w, map[string]any{
		"gatewayClassName": "istio-waypoint",
		"listeners":        []any{map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}},
	})
	o.SetLabels(map[string]string{"istio.io/waypoint-for": "service"})
	return o
}

// duration writes a time as the Gateway API wants it (GEP-2257): no fractions.
func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
