package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vipd/tests/kube/cluster"
	"vipd/tests/kube/machine"
)

// stateFile says where the cluster is that `up` has left running; next to the logs.
func stateFile() string { return filepath.Join(os.Getenv("VIPD_CLUSTER_LOGS"), "cluster.json") }

// state is what it says.
type state struct {
	// Outer is the process that waits for the enclosure, Inner the enclosure's PID 1, both as the host numbers them.
	Outer, Inner int
	// Namespace is the enclosure's PID namespace, by which a reused number is told from the process meant.
	Namespace string
	Cgroup    string
}

// endWithin bounds the wait for a cluster's end.
const endWithin = 60 * time.Second

// running reads the state; ok is false if no cluster runs.
func running() (found state, ok bool, err error) {
	text, err := os.ReadFile(stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return found, false, nil
	}
	if err != nil {
		return found, false, err
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return found, false, fmt.Errorf("%s: %w", stateFile(), err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", found.Inner))
	return found, err == nil && namespace == found.Namespace, nil
}

// cgroupPrefix is followed by the number of the process that removes the cgroup.
const cgroupPrefix = "vipd-cluster-"

// enclose runs a command of the rig's in an enclosure.
func enclose(command []string, started func(int) error) (int, error) {
	if err := machine.RemoveLeftCgroups(cgroupPrefix); err != nil {
		return 0, err
	}
	cgroup := fmt.Sprintf("%s%d", cgroupPrefix, os.Getpid())
	if err := os.Setenv("VIPD_CLUSTER_CGROUP", cgroup); err != nil {
		return 0, err
	}
	rig, err := os.Executable()
	if err != nil {
		return 0, err
	}
	return machine.Enclose(rig, cgroup, command, started)
}

// remember writes the state of a cluster that stays; it is removed by `down`.
func remember(inner int) error {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", inner))
	if err != nil {
		return err
	}
	text, err := json.Marshal(state{Outer: os.Getpid(), Inner: inner, Namespace: namespace, Cgroup: os.Getenv("VIPD_CLUSTER_CGROUP")})
	if err != nil {
		return err
	}
	return os.WriteFile(stateFile(), text, 0o644)
}

// options reads the command line of `up`.
func options(arguments []string) (chosen cluster.Options, keepFailed bool, err error) {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.StringVar(&chosen.Election, "election", cluster.Peers, "peers or lease")
	flags.IntVar(&chosen.Port, "endpoint", 8443, "the port of the virtual IP: 8443, or 6443, which is the apiservers' own")
	flags.StringVar(&chosen.Form, "form", "", "how vipd runs: sample (with peers), pod or daemonset (with lease)")
	flags.BoolVar(&keepFailed, "keep-failed", false, "leave what there is when the cluster can't be brought up")
	if err := flags.Parse(arguments); err != nil {
		return chosen, false, err
	}
	if flags.NArg() > 0 {
		return chosen, false, fmt.Errorf("unexpected: %s", flags.Arg(0))
	}
	return chosen, keepFailed, chosen.Check()
}

// up starts an enclosure that outlives this process, and tells what happens there until the cluster is up.
func up(arguments []string) error {
	if _, _, err := options(arguments); err != nil {
		return err
	}
	_, ok, err := running()
	if err != nil {
		return err
	}
	if ok {
		return errors.New("a cluster is running already; tests/cluster/down ends it")
	}
	rig, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(os.Getenv("VIPD_CLUSTER_LOGS"), "cluster.log"))
	if err != nil {
		return err
	}
	told, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	keeper := exec.Command(rig, append([]string{"enclose", rig, "keep"}, arguments...)...)
	keeper.Stdout, keeper.Stderr = log, log
	keeper.ExtraFiles = []*os.File{tell}
	keeper.Env = append(os.Environ(), machine.ProgressVariable+"=3")
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return err
	}
	// Whoever interrupts `up` wants no half of a cluster.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if received, ok := <-signals; ok {
			_ = keeper.Process.Signal(received)
		}
	}()
	if err := tell.Close(); err != nil {
		return err
	}
	isUp := false
	for lines := bufio.NewScanner(told); lines.Scan(); {
		if lines.Text() == upAtLast {
			isUp = true
			break
		}
		fmt.Println(lines.Text())
	}
	if isUp {
		return keeper.Process.Release()
	}
	return errors.Join(errors.New("the cluster didn't come up"), keeper.Wait(), forget())
}

// upAtLast is the line after which `up` returns.
const upAtLast = "up"

// keep brings the cluster up, tells how, and keeps it until a signal asks for the end.
func keep(arguments []string) error {
	chosen, keepFailed, err := options(arguments)
	if err != nil {
		return err
	}
	programs, err := cluster.ProgramsFromEnvironment()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	progress := os.NewFile(3, "progress")
	unix.CloseOnExec(3)
	// A write fails once `up` has gone; nobody listens then.
	say := func(format string, values ...any) { _, _ = fmt.Fprintf(progress, format+"\n", values...) }
	made, err := cluster.New(chosen, programs, say)
	if err == nil {
		err = made.Up(ctx)
	}
	switch {
	case err != nil && keepFailed:
		say("%v", err)
		say("left as it is; tests/cluster/down ends it")
	case err != nil:
		say("%v", err)
		return err
	}
	say(upAtLast)
	_ = progress.Close()
	<-ctx.Done()
	return nil
}

// down ends the cluster and everything that belongs to it.
func down() error {
	found, ok, err := running()
	if err != nil {
		return err
	}
	if !ok {
		fmt.Println("no cluster is running")
	} else {
		outer, err := unix.PidfdOpen(found.Outer, 0)
		if err == nil {
			err = errors.Join(unix.PidfdSendSignal(outer, unix.SIGTERM, nil, 0), awaitEnd(outer))
		}
		if err != nil {
			return fmt.Errorf("failed to end process %d: %w", found.Outer, err)
		}
		fmt.Println("the cluster is gone")
	}
	if found.Cgroup == "" {
		return nil
	}
	// What a killed outer process could not remove.
	return errors.Join(machine.RemoveCgroups(found.Cgroup), forget())
}

// forget removes the state.
func forget() error {
	if err := os.Remove(stateFile()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// awaitEnd waits for the end of a process.
func awaitEnd(pidfd int) error {
	wait := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		count, err := unix.Poll(wait, int(endWithin.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case count == 0:
			return fmt.Errorf("it didn't end within %v", endWithin)
		}
		return nil
	}
}

// execute runs a command on a machine of the running cluster: first into the enclosure, and there, as `exec`, into the machine.
func execute(arguments []string) (int, error) {
	if len(arguments) < 2 {
		return 64, errors.New("exec NODE COMMAND...")
	}
	if os.Getenv("VIPD_CLUSTER_ENTERED") == "" {
		found, ok, err := running()
		if err != nil {
			return 0, err
		}
		if !ok {
			return 69, errors.New("no cluster is running; tests/cluster/up starts one")
		}
		rig, err := os.Executable()
		if err != nil {
			return 0, err
		}
		nsenter, err := exec.LookPath("nsenter")
		if err != nil {
			return 0, err
		}
		enter := []string{"nsenter", "--target", strconv.Itoa(found.Inner), "--mount", "--net", "--ipc", "--pid", "--root", "--wd", "--", rig, "exec"}
		return 0, syscall.Exec(nsenter, append(enter, arguments...), append(os.Environ(), "VIPD_CLUSTER_ENTERED=1"))
	}
	pid, err := machine.Pid(arguments[0])
	if err != nil {
		return 69, err
	}
	command := machine.Enter(context.Background(), pid, arguments[1], arguments[2:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(arguments, " "), err)
	}
	return 0, nil
}
