package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// graceOf is how long a command in an enclosure may take to end after a signal before everything is killed.
const graceOf = 10 * time.Second

// Enclose runs a command in namespaces of its own and returns its exit status when it, and all that it has started, has ended. Signals are
// passed on. If the calling process is killed, the enclosure dies with it; only cgroups remain then.
func Enclose(rig string, cgroup string, command []string, started func(pid int) error) (int, error) {
	// The death signal is that of the thread which makes the child.
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	inside := exec.Command(rig, append([]string{"inside"}, command...)...)
	inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
	inside.ExtraFiles = progress()
	inside.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
	}
	if err := inside.Start(); err != nil {
		return 0, fmt.Errorf("failed to make namespaces: %w", err)
	}
	for _, pipe := range inside.ExtraFiles {
		_ = pipe.Close()
	}
	if err := started(inside.Process.Pid); err != nil {
		return 0, errors.Join(err, inside.Process.Kill(), inside.Wait())
	}
	status := await(inside, signals)
	return status, RemoveCgroups(cgroup)
}

// ProgressVariable says, in the environment, that file 3 is a pipe on which `up` is told how far the cluster is.
const ProgressVariable = "VIPD_CLUSTER_PROGRESS"

// progress is that pipe, for a child's file 3.
func progress() []*os.File {
	if os.Getenv(ProgressVariable) == "" {
		return nil
	}
	unix.CloseOnExec(3)
	return []*os.File{os.NewFile(3, "progress")}
}

// await waits for a command, passes signals on to it, and kills it when it takes too long to end.
func await(command *exec.Cmd, signals <-chan os.Signal) int {
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	var tooLong <-chan time.Time
	for {
		select {
		case <-ended:
			state, ok := command.ProcessState.Sys().(syscall.WaitStatus)
			if ok && state.Signaled() {
				return 128 + int(state.Signal())
			}
			return command.ProcessState.ExitCode()
		case received := <-signals:
			_ = command.Process.Signal(received)
			if tooLong == nil {
				tooLong = time.After(graceOf)
			}
		case <-tooLong:
			_ = command.Process.Kill()
		}
	}
}

// Inside is PID 1 of an enclosure: it makes mounts private, /proc and /run new, and runs the command; with the command ends all.
func Inside(command []string) (int, error) {
	if os.Getpid() != 1 || len(command) == 0 {
		return 0, fmt.Errorf("`inside` is for PID 1 of an enclosure")
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		// The machines' disks are here: in memory, and gone with the enclosure.
		func() error { return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID, "mode=755,size=80%") },
		func() error { return os.MkdirAll(Disks, 0o755) },
		MakeSwitch,
	}
	for number, step := range steps {
		if err := step(); err != nil {
			return 0, fmt.Errorf("step %d of the enclosure: %w", number, err)
		}
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	files := append([]*os.File{os.Stdin, os.Stdout, os.Stderr}, progress()...)
	program, err := os.StartProcess(path, command, &os.ProcAttr{Env: os.Environ(), Files: files})
	if err != nil {
		return 0, err
	}
	// The pipe must end with the one that tells.
	for _, pipe := range files[3:] {
		_ = pipe.Close()
	}
	go func() {
		for received := range signals {
			_ = program.Signal(received)
		}
	}()
	return reapUntil(program.Pid)
}

// reapUntil collects every process that ends, until one does. A process that was sent into a machine, and whose parent has ended, must be
// reaped here before the kernel lets the machine go.
func reapUntil(command int) (int, error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case pid == command && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == command:
			return status.ExitStatus(), nil
		}
	}
}
