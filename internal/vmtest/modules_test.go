package vmtest

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// A compressed module is unpacked whole; one that is damaged is an error.
func TestUnpackedModule(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "veth.ko.xz")
	var packed strings.Builder
	w, err := xz.NewWriter(&packed)
	if err == nil {
		_, err = w.Write([]byte("a module"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for text, whole := range map[string]bool{packed.String(): true, packed.String()[:packed.Len()/2]: false} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := unpacked(path, t.TempDir())
		if whole != (err == nil) {
			t.Fatalf("of %d bytes: %v", len(text), err)
		}
		if !whole {
			continue
		}
		if data, err := os.ReadFile(got); err != nil || string(data) != "a module" || filepath.Base(got) != "veth.ko" {
			t.Errorf("%s has %q: %v", got, data, err)
		}
	}
	if got, err := unpacked("/x/veth.ko", dir); err != nil || got != "/x/veth.ko" {
		t.Errorf("one that is not compressed: %s, %v", got, err)
	}
}

// A machine for which a module is missing is a failure that names it.
func TestLoadOrderNamesTheModule(t *testing.T) {
	if _, err := loadOrder(t.TempDir(), []string{"veth"}, t.TempDir()); err == nil || !strings.Contains(err.Error(), "module veth") {
		t.Errorf("got %v", err)
	}
}

// What a module needs first is what it names, and what implements that.
func TestModinfo(t *testing.T) {
	section := "name=libcrc32c\x00depends=\x00softdep=pre: crc32c post: other\x00alias=a\x00alias=crypto-a\x00" +
		"parm=x:depends=y\x00"
	got := parseModinfo([]byte(section))
	if want := (modinfo{before: []string{"crc32c"}, aliases: []string{"a", "crypto-a"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = parseModinfo([]byte("depends=llc,stp\x00"))
	if want := (modinfo{needs: []string{"llc", "stp"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A soft dependency is loaded where the kernel has it, under its own name or built in
// under that of what implements it, and is no fault where it has not.
func TestSoftDependencies(t *testing.T) {
	tree := moduleTree{
		files:   map[string]string{"there": "/there.ko"},
		builtin: map[string]bool{"crc32c_generic": true, "inside": true},
	}
	got, err := tree.softly([]string{"there", "crc32c", "inside", "nowhere"}, t.TempDir())
	if want := []string{"there", "inside"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// The parts of a kernel are found by the names that Debian gives them.
func TestKernelDependency(t *testing.T) {
	for line, want := range map[string]string{
		"  Depends: linux-image-6.12.117+deb13-cloud-amd64": "linux-image-6.12.117+deb13-cloud-amd64",
		"  Depends: linux-modules-7.3.4+deb13-cloud-amd64":  "linux-modules-7.3.4+deb13-cloud-amd64",
		"  PreDepends: linux-base":                          "",
		"  Depends: kmod":                                   "",
		" |Depends: dracut":                                 "",
		"  Depends: linux-base-7.3.4+deb13-cloud-amd64":     "",
		"  Depends: linux-binary-7.3.4+deb13-cloud-amd64":   "linux-binary-7.3.4+deb13-cloud-amd64",
	} {
		got := ""
		if m := kernelDependency.FindStringSubmatch(line); m != nil {
			got = m[1]
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
