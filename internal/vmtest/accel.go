package vmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// bootTrial is how long a machine that does nothing may take to boot and end
// with real virtualisation.
const bootTrial = 10 * time.Second

// kvmTrial is the directory of its console.
const kvmTrial = "kvm-trial"

// chooseAccel tries KVM by really booting the kernel t: a processor or an outer
// machine may offer /dev/kvm and still not run it. The reason is why not.
func chooseAccel(ctx context.Context, t Tree, init, dir string) (_ Accel, reason string, err error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, err.Error(), nil
	}
	kvm.Close()
	dir = filepath.Join(dir, kvmTrial)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := (image{init: init}).write(initramfs); err != nil {
		return "", "", err
	}
	m := Machine{Tree: t, Initramfs: initramfs, Accel: KVM, MemoryMB: 256, Timeout: bootTrial, Dir: dir}
	_, err = m.Run(ctx)
	var death *DeathError
	if errors.As(err, &death) {
		return TCG, "a trial boot with KVM: " + death.Reason, nil
	}
	if err != nil {
		return "", "", err
	}
	return KVM, "", nil
}
