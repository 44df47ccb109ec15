package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Path is the search path on every machine.
const Path = "/opt/kubernetes/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// taken are the parts of the outer machine's /etc without which its programs don't run; nothing that is its own.
var taken = []string{"alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd", "protocols", "services", "ssl"}

// tunables are settings of the whole kernel that a kubelet changes unless they are as it wants them. The machine sees them so.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// format makes a new disk: the outer machine's programs are mounted at each start, all else is the machine's own.
func format(disk string) error {
	for _, folder := range []string{"dev", "etc", "home", "mnt", "opt/kubernetes/bin", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "var/log", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(disk, folder), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		target, err := os.Readlink("/" + name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("/%s is no link into /usr: a Debian from 12 on is needed: %w", name, err)
		}
		if err := os.Symlink(target, filepath.Join(disk, name)); err != nil {
			return err
		}
	}
	for _, name := range taken {
		if _, err := os.Lstat("/etc/" + name); err != nil {
			continue
		}
		if err := run("cp", "-a", "/etc/"+name, filepath.Join(disk, "etc", name)); err != nil {
			return err
		}
	}
	return os.Symlink("/run", filepath.Join(disk, "var/run"))
}

// enterRoot makes the machine's disk the root of the calling process, with everything mounted that a machine has.
func enterRoot(plan Plan, cgroups []hierarchy) error {
	root := filepath.Join(Disks, plan.Name)
	// What is mounted here must not reach the enclosure, and mounts below this root must be visible to containers.
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount(root, root, "", unix.MS_BIND, "") },
		func() error { return bind("/usr", filepath.Join(root, "usr"), true) },
		func() error { return bind(plan.Programs, filepath.Join(root, "opt/kubernetes/bin"), true) },
		func() error { return bind(plan.Logs, filepath.Join(root, "var/log"), false) },
		func() error { return mountProc(root) },
		func() error { return mountSys(root, cgroups) },
		func() error { return mountDev(root) },
		func() error {
			return unix.Mount("tmpfs", filepath.Join(root, "run"), "tmpfs", unix.MS_NOSUID, "mode=755")
		},
		func() error {
			return unix.Mount("tmpfs", filepath.Join(root, "tmp"), "tmpfs", unix.MS_NOSUID, "mode=1777")
		},
		func() error { return os.Chdir(root) },
		// The old root lies on top of the new one until it is unmounted: pivot_root(2), "pivot_root(".", ".")".
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
		func() error { return os.Chdir("/") },
	}
	for number, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d of the machine's mounts: %w", number, err)
		}
	}
	return nil
}

// bind makes a folder or file visible at a second place, too.
func bind(from, to string, readOnly bool) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("failed to mount %s at %s: %w", from, to, err)
	}
	if !readOnly {
		return nil
	}
	return unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountProc mounts /proc, with the settings of the whole kernel out of reach that a kubelet would write to.
func mountProc(root string) error {
	proc := filepath.Join(root, "proc")
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	shadow := filepath.Join(root, "mnt/tunables")
	for name, value := range tunables {
		if _, err := os.Stat(filepath.Join(proc, "sys", name)); err != nil {
			continue // a kernel without it
		}
		file := filepath.Join(shadow, strings.ReplaceAll(name, "/", "."))
		if err := os.MkdirAll(shadow, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := bind(file, filepath.Join(proc, "sys", name), true); err != nil {
			return err
		}
	}
	return nil
}

// mountSys mounts /sys, read-only but for the machine's own cgroups.
func mountSys(root string, cgroups []hierarchy) error {
	sys := filepath.Join(root, "sys")
	if err := unix.Mount("sysfs", sys, "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return mountCgroups(filepath.Join(sys, "fs/cgroup"), cgroups)
}

// mountDev mounts a /dev with the devices that every machine has; kmsg is where a kubelet reads what the kernel says of memory.
func mountDev(root string) error {
	dev := filepath.Join(root, "dev")
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "net/tun"} {
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue
		}
		device := filepath.Join(dev, name)
		if err := os.MkdirAll(filepath.Dir(device), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(device, nil, 0o666); err != nil {
			return err
		}
		if err := bind("/dev/"+name, device, false); err != nil {
			return err
		}
	}
	for _, folder := range []string{"pts", "shm", "mqueue"} {
		if err := os.MkdirAll(filepath.Join(dev, folder), 0o755); err != nil {
			return err
		}
	}
	mounts := []struct{ kind, at, options string }{
		{"devpts", "pts", "newinstance,ptmxmode=0666,mode=620"},
		{"tmpfs", "shm", "mode=1777"},
		{"mqueue", "mqueue", ""},
	}
	for _, mount := range mounts {
		if err := unix.Mount(mount.kind, filepath.Join(dev, mount.at), mount.kind, unix.MS_NOSUID|unix.MS_NOEXEC, mount.options); err != nil {
			return fmt.Errorf("failed to mount /dev/%s: %w", mount.at, err)
		}
	}
	links := map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// hide makes programs of the outer machine impossible to run on this one: kubeadm must not find an init system that isn't there.
func hide(programs ...string) error {
	for _, program := range programs {
		for folder := range slices.Values(strings.Split(Path, ":")) {
			path := filepath.Join(folder, program)
			// A link leads to another program, which must stay.
			if status, err := os.Lstat(path); err != nil || !status.Mode().IsRegular() {
				continue
			}
			if err := bind("/dev/null", path, false); err != nil {
				return err
			}
		}
	}
	return nil
}
