package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the hierarchies of cgroups are, on every machine.
const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is one tree of cgroups: a controller's (version 1), or the tree of all of them (version 2).
type hierarchy struct {
	// folder is its place below cgroupRoot: empty for version 2.
	folder string
	// options are those to mount it with.
	options string
}

// isUnified says whether the machine has version 2 alone.
func isUnified() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// hierarchies lists the trees that this process is in.
func hierarchies() ([]hierarchy, error) {
	if isUnified() {
		return []hierarchy{{}}, nil
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for line := range strings.Lines(string(text)) {
		// "4:memory:/path"; the tree of version 2 beside those of version 1 has no controllers.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] == "" {
			continue
		}
		folder := strings.TrimPrefix(fields[1], "name=")
		if _, err := os.Stat(filepath.Join(cgroupRoot, folder)); err == nil {
			found = append(found, hierarchy{folder: folder, options: fields[1]})
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted at %s", cgroupRoot)
	}
	return found, nil
}

// enterCgroup moves this process into a cgroup of each hierarchy, and makes that the root of what it sees of it. It must be
// followed by exec: other threads keep what they saw.
func enterCgroup(path string) ([]hierarchy, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, tree := range all {
		if err := makeCgroup(tree, path); err != nil {
			return nil, err
		}
		members := filepath.Join(cgroupRoot, tree.folder, path, "cgroup.procs")
		if err := os.WriteFile(members, []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("failed to enter cgroup %s of %s: %w", path, tree.options, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return nil, err
	}
	if !isUnified() {
		return all, nil
	}
	// In version 2 a cgroup with processes can't have cgroups with controllers below it.
	top := filepath.Join(cgroupRoot, path)
	leaf := filepath.Join(top, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return nil, err
	}
	return all, delegate(top)
}

// makeCgroup makes a cgroup and its parents, usable for processes and for cgroups below.
func makeCgroup(tree hierarchy, path string) error {
	at := filepath.Join(cgroupRoot, tree.folder)
	for part := range slices.Values(strings.Split(strings.Trim(path, "/"), "/")) {
		if isUnified() {
			if err := delegate(at); err != nil {
				return err
			}
		}
		parent := at
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A new cpuset has no processors and no memory of its own, and takes no process before it has.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			inherited, err := os.ReadFile(filepath.Join(parent, name))
			if err != nil || isUnified() {
				continue
			}
			if err := os.WriteFile(filepath.Join(at, name), inherited, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets the cgroups below one of version 2 use every controller that it has.
func delegate(cgroup string) error {
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range slices.Values(strings.Fields(string(text))) {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("failed to delegate %s below %s: %w", controller, cgroup, err)
		}
	}
	return nil
}

// mountCgroups mounts the hierarchies as this process sees them.
func mountCgroups(at string, all []hierarchy) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(all) == 1 && all[0].folder == "" {
		return unix.Mount("cgroup2", at, "cgroup2", flags, "")
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", flags, "mode=755"); err != nil {
		return err
	}
	for _, tree := range all {
		folder := filepath.Join(at, tree.folder)
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		options := tree.options
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := unix.Mount("cgroup", folder, "cgroup", flags, options); err != nil {
			return fmt.Errorf("failed to mount the cgroups of %s: %w", tree.options, err)
		}
		// Two controllers in one tree are found by either name.
		if names := strings.Split(tree.folder, ","); len(names) > 1 {
			for _, name := range names {
				if err := os.Symlink(tree.folder, filepath.Join(at, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// RemoveCgroups removes a cgroup with all below, in every hierarchy. Whatever ran there must have ended.
func RemoveCgroups(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var failures []error
	for _, tree := range all {
		var folders []string
		top := filepath.Join(cgroupRoot, tree.folder, path)
		err := filepath.WalkDir(top, func(folder string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				folders = append(folders, folder)
			}
			return nil
		})
		failures = append(failures, err)
		slices.Reverse(folders)
		for _, folder := range folders {
			if err := unix.Rmdir(folder); err != nil && !errors.Is(err, unix.ENOENT) {
				failures = append(failures, fmt.Errorf("failed to remove the cgroup %s: %w", folder, err))
			}
		}
	}
	return errors.Join(failures...)
}

// RemoveLeftCgroups removes the cgroups of this prefix whose last part is the number of a process that is no more: whoever was to remove
// them was killed. One in which something still runs stays.
func RemoveLeftCgroups(prefix string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(cgroupRoot, all[0].folder, prefix+"*"))
	if err != nil {
		return err
	}
	for _, folder := range found {
		name := filepath.Base(folder)
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(name, prefix)); errors.Is(err, fs.ErrNotExist) {
			_ = RemoveCgroups(name)
		}
	}
	return nil
}
