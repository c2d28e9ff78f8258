package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestSample runs with the arguments of samples/fortio.
func TestSample(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		args := []string{"server", "-http-port", "127.0.0.1:0", "-grpc-port", "disabled", "-echo-server-default-params", "header=server:2"}
		ended <- run(ctx, args, io.Discard, ready, 0)
	}()
	at := "http://" + (<-ready).String()
	for path, want := range map[string]struct {
		status int
		server string
	}{
		"/":                                   {200, "2"},
		"/any/path":                           {200, "2"},
		"/?header=server:1":                   {200, "1"}, // a query of its own
		"/?status=503":                        {503, ""},
		"/?status=418&header=server:x&size=3": {418, "x"},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+path, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want.status || res.Header.Get("server") != want.server {
			t.Errorf("%s: %s, server %q, want %+v", path, res.Status, res.Header.Get("server"), want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestBadArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"want `server`":            {"load"},
		"flag provided but not":    {"server", "-frob"},
		`unknown argument "extra"`: {"server", "extra"},
		"listen tcp":               {"server", "-http-port", "127.0.0.1:99999"},
	} {
		if err := run(t.Context(), args, io.Discard, nil, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
}
