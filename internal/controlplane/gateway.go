package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Launch is how kubelet would start the one container of a pod.
type Launch struct {
	ServiceAccount string
	Args           []string
	// Env is what the pod's template says, as "NAME=value"; a fault of it is an error.
	Env []string
}

// AddGatewayPod creates a Pod of the Deployment that istiod makes for a Gateway: with the
// labels and the ServiceAccount of its template, and not ready until SetReady. It waits
// for that Deployment.
func (s *Stack) AddGatewayPod(ctx context.Context, gateway string, p Pod) (Launch, error) {
	d, err := s.awaitDeployment(ctx, p.Namespace, gateway)
	if err != nil {
		return Launch{}, err
	}
	template := d.Spec.Template
	if len(template.Spec.Containers) != 1 {
		return Launch{}, fmt.Errorf("deployment %s/%s: %d containers, want 1", p.Namespace, gateway, len(template.Spec.Containers))
	}
	p.ServiceAccount, p.Unready = template.Spec.ServiceAccountName, true
	p.Labels = maps.Clone(template.Labels)
	if err := s.AddPod(ctx, p); err != nil {
		return Launch{}, err
	}
	s.kubelet.mu.Lock()
	host := s.kubelet.nodes[p.Node]
	s.kubelet.mu.Unlock()
	container := template.Spec.Containers[0]
	env, err := environment(container, p, host)
	if err != nil {
		return Launch{}, fmt.Errorf("deployment %s/%s: %w", p.Namespace, gateway, err)
	}
	return Launch{ServiceAccount: p.ServiceAccount, Args: expand(container.Args, env), Env: env}, nil
}

// awaitDeployment waits until istiod has made a Gateway's Deployment and ServiceAccount.
func (s *Stack) awaitDeployment(ctx context.Context, namespace, name string) (*appsv1.Deployment, error) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		d, err := s.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			_, err = s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, d.Spec.Template.Spec.ServiceAccountName, metav1.GetOptions{})
		}
		if err == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("istiod makes no deployment of gateway %s/%s: %w: %w", namespace, name, context.Cause(ctx), err)
		}
	}
}

// environment is what kubelet makes of a container's variables.
func environment(c corev1.Container, p Pod, host Node) ([]string, error) {
	var env []string
	for _, v := range c.Env {
		value := v.Value
		if from := v.ValueFrom; from != nil {
			var err error
			if value, err = downward(*from, c, p, host); err != nil {
				return nil, fmt.Errorf("variable %s: %w", v.Name, err)
			}
		}
		env = append(env, v.Name+"="+value)
	}
	return env, nil
}

func downward(from corev1.EnvVarSource, c corev1.Container, p Pod, host Node) (string, error) {
	switch {
	case from.FieldRef != nil:
		return field(from.FieldRef.FieldPath, p, host)
	case from.ResourceFieldRef != nil && from.ResourceFieldRef.Resource == "limits.cpu":
		cores := c.Resources.Limits.Cpu().MilliValue()
		return strconv.FormatInt((cores+999)/1000, 10), nil // kubelet rounds up
	case from.ResourceFieldRef != nil && from.ResourceFieldRef.Resource == "limits.memory":
		return strconv.FormatInt(c.Resources.Limits.Memory().Value(), 10), nil
	}
	return "", errors.New("nobody here knows where it comes from")
}

func field(path string, p Pod, host Node) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "spec.nodeName":
		return p.Node, nil
	case "spec.serviceAccountName":
		return p.ServiceAccount, nil
	case "status.podIP":
		return p.Addresses[0].String(), nil
	case "status.hostIP":
		return host.Addresses[0].String(), nil
	}
	return "", fmt.Errorf("field %s is not known here", path)
}

// expand replaces $(NAME) in arguments, as kubelet does.
func expand(args, env []string) []string {
	var pairs []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		pairs = append(pairs, "$("+name+")", value)
	}
	known := strings.NewReplacer(pairs...)
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = known.Replace(a)
	}
	return out
}

// ForgetGateway deletes what istiod has made for a Gateway that is gone, as Kubernetes'
// garbage collection would.
func (s *Stack) ForgetGateway(ctx context.Context, namespace, name string) error {
	ours := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	var errs []error
	for _, err := range []error{
		s.client.AppsV1().Deployments(namespace).Delete(ctx, name, ours),
		s.client.CoreV1().Services(namespace).Delete(ctx, name, ours),
		s.client.CoreV1().ServiceAccounts(namespace).Delete(ctx, name, ours),
	} {
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("what belongs to gateway %s/%s: %w", namespace, name, err))
		}
	}
	return errors.Join(errs...)
}
