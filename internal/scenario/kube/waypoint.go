package kube

import (
	"fmt"
	"time"
)

// UseWaypoint is the label by which a service names its waypoint.
const UseWaypoint = "istio.io/use-waypoint"

// gatewayVersion is the version of the Gateway API's objects.
const gatewayVersion = "gateway.networking.k8s.io/v1"

// duration writes a time as the Gateway API wants it (GEP-2257): no fractions.
func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
