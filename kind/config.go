package kind

import (
	"errors"
	"net/netip"

	"github.com/duomesh/duomesh/internal/cluster"
)

// Config says which cluster, and what runs in it.
type Config struct {
	// Client speaks to the cluster.
	Client *cluster.Client
	// System is the namespace of the agents.
	System string
	// Image is that of the pods: something that does nothing until it is told to end.
	Image string
	// Exe starts load: a program whose main calls traffic.IsChild; this one's own
	// when it is "".
	Exe string
	// Services is where the addresses of services are taken from, which must be in
	// the cluster's range and nobody else's; Services6 those of IPv6, where the cluster
	// has both families.
	Services, Services6 netip.Prefix
	// Ambient puts the pods that are to be managed behind Istio Ambient's node proxies,
	// and none into duomesh.
	Ambient bool
}

func (c Config) check() error {
	switch {
	case c.Client == nil:
		return errors.New("kind: no client of the cluster was given")
	case c.System == "" || c.Image == "" || !c.Services.IsValid():
		return errors.New("kind: the agents' namespace, the pods' image and addresses for services are needed")
	}
	return nil
}

// mode is the value of the label by which pods are managed, confirmation the annotation
// that says they are.
func (c Config) mode() string {
	if c.Ambient {
		return ambientMode
	}
	return "duomesh"
}

func (c Config) confirmation() string {
	if c.Ambient {
		return ambientAnnotation
	}
	return redirectionAnnotation
}
