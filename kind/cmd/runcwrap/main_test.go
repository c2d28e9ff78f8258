package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSpecification(t *testing.T) {
	for name, x := range map[string]struct {
		args      []string
		file      string
		inProcess bool
	}{
		"create": {[]string{"--root", "/r", "create", "--bundle", "/b", "id"}, "/b/config.json", true},
		"exec":   {[]string{"exec", "--process", "/p.json", "create"}, "/p.json", false},
		"state":  {[]string{"--root", "/r", "state", "id"}, "", false},
	} {
		file, inProcess := specification(x.args)
		if file != x.file || inProcess != x.inProcess {
			t.Errorf("%s: got %q, %v", name, file, inProcess)
		}
	}
}

func TestConfine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	text := `{"process":{"capabilities":{"bounding":["CAP_SYS_ADMIN","CAP_SYS_RESOURCE","CAP_NEW"]}},"n":9007199254740993}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := confine(file, true, ^uint64(1<<unix.CAP_SYS_RESOURCE)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"n":9007199254740993,"process":{"capabilities":{"bounding":["CAP_SYS_ADMIN","CAP_NEW"]}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" || !json.Valid(got) {
		t.Error(diff)
	}
}

func TestBounding(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(file, []byte("Name:\tx\nCapBnd:\t000001fffeffffff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := bounding(file)
	if err != nil || got != 0x1fffeffffff {
		t.Errorf("got %x, %v", got, err)
	}
}
