package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// An API server that is started again ends no waiting; one that refuses does.
func TestAwaitOutlivesTheServer(t *testing.T) {
	away := func(err error) error { return &url.Error{Op: "Get", URL: "https://10.0.0.1", Err: err} }
	passing := []error{
		away(syscall.ECONNREFUSED), away(syscall.ECONNRESET), away(io.EOF),
		fmt.Errorf("list the pods: %w", apierrors.NewServiceUnavailable("etcd is away")),
		apierrors.NewInternalError(errors.New("etcd leader changed")), apierrors.NewTooManyRequests("slow down", 1),
	}
	asked := 0
	err := Await(t.Context(), func(context.Context) (string, error) {
		if asked++; asked <= len(passing) {
			return "", passing[asked-1]
		}
		return "", nil
	})
	if err != nil || asked != len(passing)+1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	for _, refused := range []error{
		apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "web", errors.New("no")),
		apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "web"), errors.New("its pod has failed"),
	} {
		if err := Await(t.Context(), func(context.Context) (string, error) { return "", refused }); !errors.Is(err, refused) {
			t.Errorf("%v is waited out: %v", refused, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Await(ctx, func(context.Context) (string, error) {
		if asked--; asked == 0 {
			cancel()
		}
		return "0 of 3 are ready", map[bool]error{true: passing[0]}[asked > 1]
	})
	if err == nil || !strings.Contains(err.Error(), "0 of 3 are ready") {
		t.Errorf("its last words are %v", err)
	}
}

func TestDecode(t *testing.T) {
	all, err := Decode([]byte("---\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n# nothing\n---\n" +
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`))
	if err != nil || len(all) != 2 || all[0].GetName() != "a" || all[1].GetKind() != "Pod" {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"kind: Service\n", "metadata: {name: a}\n", "a: [\n"} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q is read without an error", bad)
		}
	}
}
