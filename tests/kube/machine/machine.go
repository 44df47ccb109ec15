// Package machine makes machines out of namespaces: each has its own processes, network, disk, host name and cgroups, can lose its
// power between two instructions, and starts again from its disk.
//
//	enclosure (PID, mount, network and IPC namespaces; all below ends with it)
//	├─ bridge `switch`, 10.0.0.1 ──┬─ port master-1 ── ens3 ┐
//	│                              └─ port …                │ network namespace, a new one at each start
//	├─ /run/machines/NAME: its disk, in memory              │
//	└─ PID 1 of master-1 ── containerd ── containers        ┘ PID namespace: ends whole when its PID 1 does
//	                     └─ kubelet
//
// Nothing here relies on cleaning up: the kernel ends the processes, mounts and networks of a machine with its PID 1, and the
// machines with the enclosure. Cgroups alone stay, and are removed by who made the enclosure.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// Interface is the network interface of every machine.
	Interface = "ens3"
	// Disks is where the machines' disks are, in the enclosure.
	Disks = "/run/machines"
	// shutdownWithin bounds an orderly shutdown; its inside gives processes half of it between SIGTERM and SIGKILL.
	shutdownWithin = 60 * time.Second
)

// Plan is what a machine is made from.
type Plan struct {
	// Name is its host name, and the name of its port on the switch.
	Name string
	// Address and Address6 are its addresses, without prefix lengths.
	Address, Address6 string
	// Routes are the networks behind other machines: network to gateway.
	Routes map[string]string
	// Programs is a folder that the machine has as /opt/kubernetes/bin.
	Programs string
	// Logs is a folder outside that the machine has as /var/log, so that logs outlive it.
	Logs string
	// Cgroup is the cgroup below which the machine's own is made, as a path from the root of each hierarchy.
	Cgroup string
}

// Machine is a machine, on or off.
type Machine struct {
	Plan
	rig   string
	mutex sync.Mutex
	init  *exec.Cmd
	ended chan struct{}
}

// New describes a machine that has never been switched on; rig is the program whose `boot` is its PID 1.
func New(plan Plan, rig string) (*Machine, error) {
	m := &Machine{Plan: plan, rig: rig}
	// The logs of an earlier machine of this name.
	if err := os.RemoveAll(plan.Logs); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(plan.Logs, 0o755); err != nil {
		return nil, err
	}
	return m, format(m.Path("/"))
}

// Path is where a file of the machine's disk is in the enclosure; what the machine mounts over it is not there.
func (m *Machine) Path(file string) string { return filepath.Join(Disks, m.Name, file) }

// Write writes a file of the machine's disk, and its folders.
func (m *Machine) Write(file, content string) error {
	path := m.Path(file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// The rename makes the file appear whole: a kubelet looks at its folder of manifests all the time.
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
	if err := os.WriteFile(part, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// PowerOn starts the machine: a new network with a cable to the switch, and PID 1 with its services.
func (m *Machine) PowerOn() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.init != nil {
		return fmt.Errorf("%s is on", m.Name)
	}
	console, err := os.OpenFile(filepath.Join(m.Logs, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	init := exec.Command(m.rig, "boot")
	init.Stdout, init.Stderr = console, console
	init.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	plan, err := init.StdinPipe()
	if err != nil {
		return err
	}
	booted, booting, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = booted.Close() }()
	init.ExtraFiles = []*os.File{booting}
	err = init.Start()
	_ = booting.Close()
	if err != nil {
		return fmt.Errorf("failed to start %s: %w", m.Name, err)
	}
	m.init, m.ended = init, make(chan struct{})
	go func(ended chan struct{}) {
		// How it ended is known by whoever ended it, and in its console.log.
		_ = init.Wait()
		close(ended)
	}(m.ended)
	if err := plugIn(m.Name, init.Process.Pid); err != nil {
		return errors.Join(err, m.cutPower())
	}
	// It has waited for its cable.
	if err := json.NewEncoder(plan).Encode(m.Plan); err != nil {
		return errors.Join(err, m.cutPower())
	}
	if err := plan.Close(); err != nil {
		return err
	}
	// PID 1 closes the pipe when it is in its root, or by its end.
	if _, err := io.Copy(io.Discard, booted); err != nil {
		return err
	}
	select {
	case <-m.ended:
		return errors.Join(fmt.Errorf("%s doesn't start: see %s", m.Name, console.Name()), m.gone())
	default:
		return m.recordPid(init.Process.Pid)
	}
}

// recordPid writes down PID 1's number in the enclosure, for `rig exec`.
func (m *Machine) recordPid(pid int) error {
	return os.WriteFile(m.Path("../"+m.Name+".pid"), []byte(strconv.Itoa(pid)), 0o644)
}

// Pid reads the number in the enclosure of a machine's PID 1.
func Pid(name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(Disks, name+".pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("no machine %s is on", name)
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

// PowerOff cuts the machine's power: its link is down and all its processes are gone, at once and without a word.
func (m *Machine) PowerOff() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.init == nil {
		return fmt.Errorf("%s is off", m.Name)
	}
	return m.cutPower()
}

func (m *Machine) cutPower() error {
	// First the cable, so that not even the kernel of a dying machine says goodbye to its peers.
	err := run("ip", "link", "set", m.Name, "down")
	err = errors.Join(err, m.init.Process.Kill())
	<-m.ended
	return errors.Join(err, m.gone())
}

// Shutdown ends the machine in order: SIGTERM to everything, a while, then its power is cut.
func (m *Machine) Shutdown() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.init == nil {
		return fmt.Errorf("%s is off", m.Name)
	}
	if err := m.init.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	patience := time.NewTimer(shutdownWithin)
	defer patience.Stop()
	select {
	case <-m.ended:
		return m.gone()
	case <-patience.C:
		return errors.Join(fmt.Errorf("%s had to be switched off: it didn't shut down within %v", m.Name, shutdownWithin), m.cutPower())
	}
}

// gone forgets a machine that has ended: the kernel removes its network, and so its port, with its last process, but not at once.
func (m *Machine) gone() error {
	m.init = nil
	if err := os.Remove(m.Path("../" + m.Name + ".pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return unplug(m.Name)
}

// IsOn says whether the machine runs.
func (m *Machine) IsOn() bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.init != nil
}

// SetLink switches the machine's port on or off; the machine sees its carrier come or go.
func (m *Machine) SetLink(up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return run("ip", "link", "set", m.Name, state)
}

// Enter is the command that runs a program on a machine whose PID 1 has this number in the enclosure.
func Enter(ctx context.Context, pid int, program string, arguments ...string) *exec.Cmd {
	// The root is taken from the process too: where all of this runs in a chroot, that of the mount namespace is another.
	enter := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--",
		"/usr/bin/env", "-i", "PATH=" + Path, "HOME=/root", "TERM=" + os.Getenv("TERM"), program}
	return exec.CommandContext(ctx, "nsenter", append(enter, arguments...)...)
}

// Command is a program to run on the machine, as root in /.
func (m *Machine) Command(ctx context.Context, program string, arguments ...string) (*exec.Cmd, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.init == nil {
		return nil, fmt.Errorf("%s is off", m.Name)
	}
	return Enter(ctx, m.init.Process.Pid, program, arguments...), nil
}

// Run runs a program on the machine and returns its standard output; an error has what it wrote to its standard error.
func (m *Machine) Run(ctx context.Context, program string, arguments ...string) (string, error) {
	command, err := m.Command(ctx, program, arguments...)
	if err != nil {
		return "", err
	}
	output, err := command.Output()
	if err != nil {
		var exit *exec.ExitError
		words := ""
		if errors.As(err, &exit) {
			words = ": " + strings.TrimSpace(string(exit.Stderr))
		}
		return string(output), fmt.Errorf("%s: %s %s: %w%s", m.Name, program, strings.Join(arguments, " "), err, words)
	}
	return string(output), nil
}
