package machine

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartAfter is the pause before a service that ended is started again, a tenth of what kubeadm's unit for the kubelet says.
	restartAfter = time.Second
	// endWithin is how long processes may take to end at a shutdown: half of what the outside waits.
	endWithin = shutdownWithin / 2
	kubelets  = "/var/lib/kubelet"
)

// service is a program that PID 1 keeps running.
type service struct {
	name string
	// needs are files without which it isn't started: kubeadm writes them.
	needs []string
	// arguments returns the program and its arguments, at each start.
	arguments func() ([]string, error)
	pid       int
}

// services are what runs on every machine: what the Debian package and kubeadm's own units start elsewhere.
func services() []*service {
	return []*service{
		{name: "containerd", arguments: func() ([]string, error) { return []string{"/usr/bin/containerd"}, nil }},
		{
			name:      "kubelet",
			needs:     []string{kubelets + "/config.yaml", kubelets + "/kubeadm-flags.env"},
			arguments: kubeletArguments,
		},
	}
}

// kubeletArguments is the command line of kubeadm's systemd unit, and a folder for the machine's own settings.
func kubeletArguments() ([]string, error) {
	text, err := os.ReadFile(kubelets + "/kubeadm-flags.env")
	if err != nil {
		return nil, err
	}
	// KUBELET_KUBEADM_ARGS="--flag=value --flag=value"
	_, flags, found := strings.Cut(strings.TrimSpace(string(text)), "=")
	if !found {
		return nil, fmt.Errorf("%s/kubeadm-flags.env has no KUBELET_KUBEADM_ARGS: %s", kubelets, text)
	}
	arguments := []string{
		"/opt/kubernetes/bin/kubelet",
		"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
		"--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--config=" + kubelets + "/config.yaml",
		"--config-dir=/etc/kubernetes/kubelet.conf.d",
	}
	return append(arguments, strings.Fields(strings.Trim(flags, `"`))...), nil
}

// initSystem is the second half of PID 1. The lock keeps the reaper from a process that is being started.
type initSystem struct {
	mutex    sync.Mutex
	services []*service
	ending   bool
}

// Init keeps the services running and reaps what has ended, until SIGTERM. With its end all other processes end.
func Init() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("`init` is for PID 1 of a machine")
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	system := &initSystem{services: services()}
	ended := make(chan int)
	go system.reap(ended)
	changed, err := watch(kubelets)
	if err != nil {
		return err
	}
	// Each event is a reason to look at everything; a restart waits for its pause alone.
	again := time.NewTimer(0)
	for {
		select {
		case <-terminate:
			return system.shutDown(ended)
		case pid := <-ended:
			if system.forget(pid) {
				again.Reset(restartAfter)
			}
		case err, open := <-changed:
			if !open {
				return err
			}
			system.startAll()
		case <-again.C:
			system.startAll()
		}
	}
}

// watch announces each change of a folder; the channel is closed if the kernel ends it.
func watch(folder string) (<-chan error, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO); err != nil {
		return nil, err
	}
	changed := make(chan error)
	go func() {
		defer close(changed)
		buffer := make([]byte, 4096)
		for {
			if _, err := unix.Read(fd, buffer); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			changed <- nil
		}
	}()
	return changed, nil
}

// startAll starts the services that can run and don't.
func (s *initSystem) startAll() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, service := range s.services {
		if service.pid != 0 || s.ending {
			continue
		}
		if err := service.start(); err != nil {
			fmt.Fprintf(os.Stderr, "init: failed to start %s: %v\n", service.name, err)
		}
	}
}

func (s *service) start() error {
	for _, file := range s.needs {
		if _, err := os.Stat(file); err != nil {
			return nil
		}
	}
	arguments, err := s.arguments()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join("/var/log", s.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	s.pid, err = syscall.ForkExec(arguments[0], arguments, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{0, log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// forget notes the end of a process; true if it was a service.
func (s *initSystem) forget(pid int) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, service := range s.services {
		if service.pid == pid {
			service.pid = 0
			fmt.Fprintf(os.Stderr, "init: %s ended\n", service.name)
			return true
		}
	}
	return false
}

// reap collects every process that ends, also those that daemons have left to PID 1, and tells their numbers.
func (s *initSystem) reap(ended chan<- int) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			// Whoever starts a service holds the lock until its number is known.
			s.mutex.Lock()
			//lint:ignore SA2001 the lock is only waited for
			s.mutex.Unlock()
			ended <- pid
		}
	}
}

// shutDown asks every process to end, as an init does at last when a machine is halted, and waits until they have.
func (s *initSystem) shutDown(ended <-chan int) error {
	s.mutex.Lock()
	s.ending = true
	s.mutex.Unlock()
	// To everything but PID 1 itself.
	if err := syscall.Kill(-1, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	patience := time.NewTimer(endWithin)
	defer patience.Stop()
	for {
		// Signal 0 to all others: whether there are any.
		if errors.Is(syscall.Kill(-1, 0), syscall.ESRCH) {
			return nil
		}
		select {
		case <-ended:
		case <-patience.C:
			return nil // the kernel kills what is left with PID 1
		}
	}
}
