// Command duomesh-cni is the CNI plugin of duomesh, called by a container runtime:
// it asks the node agent whether a pod is to be managed, before the pod's first
// process runs.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/duomesh/duomesh/dataplane/cni"
)

func main() {
	about := cni.Type + ": a chained CNI plugin; duomesh-agent --install-cni puts it into the node's chain"
	skel.PluginMainFuncs(cni.Funcs(os.Stderr), cni.Versions(), about)
}
