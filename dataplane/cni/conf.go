package cni

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// Type is the plugin's name in a chain, and that of its program.
const Type = "duomesh-cni"

// What happens to a pod when no agent answers.
const (
	// AbsentFail lets the pod not start; kubelet tries again. No pod that should
	// be managed ever runs without.
	AbsentFail = "fail"
	// AbsentPass lets it start, not managed until an agent finds it.
	AbsentPass = "pass"
)

// Conf is the plugin's entry in a chain.
type Conf struct {
	types.PluginConf
	// Socket is the agent's enrolment socket; "" is its default place.
	Socket string `json:"socket,omitempty"`
	// AgentAbsent is AbsentFail, which "" stands for, or AbsentPass.
	AgentAbsent string `json:"agentAbsent,omitempty"`
	// PassNamespaces are those whose pods start without an agent whatever
	// AgentAbsent says: what the cluster itself needs to come up.
	PassNamespaces []string `json:"passNamespaces,omitempty"`
	// WaitSeconds is how long one call waits for an agent that does not answer,
	// for example because it is being replaced; 0 stands for 5.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

const (
	defaultWait = 5
	longestWait = 60
)

// parse reads what the runtime hands over, with the result of the plugin before.
func parse(stdin []byte) (*Conf, error) {
	var c Conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read the configuration of "+Type, err.Error())
	}
	c.CNIVersion = cmp.Or(c.CNIVersion, "0.1.0") // what none stands for
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read the result of the plugin before "+Type, err.Error())
	}
	if err := c.Check(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "configuration of "+Type, err.Error())
	}
	return &c, nil
}

// Check names a value that the plugin does not know.
func (c *Conf) Check() error {
	if !slices.Contains([]string{"", AbsentFail, AbsentPass}, c.AgentAbsent) {
		return fmt.Errorf("agentAbsent %q: want %s or %s", c.AgentAbsent, AbsentFail, AbsentPass)
	}
	if c.WaitSeconds < 0 || c.WaitSeconds > longestWait {
		return fmt.Errorf("waitSeconds %d: want 0 to %d", c.WaitSeconds, longestWait)
	}
	return nil
}

func (c *Conf) socket() string {
	if c.Socket == "" {
		return api.EnrolSocket
	}
	return c.Socket
}

func (c *Conf) wait() time.Duration {
	if c.WaitSeconds == 0 {
		return defaultWait * time.Second
	}
	return time.Duration(c.WaitSeconds) * time.Second
}

// passes reports whether a pod of a namespace starts without an agent.
func (c *Conf) passes(namespace string) bool {
	return c.AgentAbsent == AbsentPass || slices.Contains(c.PassNamespaces, namespace)
}
