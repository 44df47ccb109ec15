package life

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/watch"
)

// rows are what was seen, for the table at the end.
var rows []string

const rowFormat = "%-44s %9s %9s %9s %9s %9s %5s  %s"

var header = fmt.Sprintf(rowFormat, "milliseconds without an answer", "new conn.", "get", "informer", "get -w", "logs -f", "lost", "what failed")

// watcher is the client on the worker.
type watcher struct {
	command *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Scanner
}

// startWatcher starts it, and returns once everything works for it.
func startWatcher(t *testing.T) *watcher {
	t.Helper()
	w := launchWatcher(t)
	if report := w.ask1(t); !report.Settled {
		t.Fatalf("before anything was broken, the watcher doesn't see everything: %+v", report)
	}
	return w
}

// launchWatcher starts it, whatever works.
func launchWatcher(t *testing.T) *watcher {
	t.Helper()
	command, err := c.Worker.Command(context.Background(), "watcher", "logged") // it ends with its input
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(c.Worker.Logs, "watcher.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = log
	ask, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(command.Start(), log.Close()); err != nil {
		t.Fatal(err)
	}
	w := &watcher{command: command, ask: ask, answers: bufio.NewScanner(answers)}
	t.Cleanup(w.stop)
	return w
}

// stop ends it, by the end of its input.
func (w *watcher) stop() {
	_ = w.ask.Close()
	_ = w.command.Wait()
}

// ask1 asks for one report.
func (w *watcher) ask1(t *testing.T) watch.Report {
	t.Helper()
	var report watch.Report
	if _, err := io.WriteString(w.ask, "\n"); err != nil {
		t.Fatal(err)
	}
	if !w.answers.Scan() {
		t.Fatalf("the watcher has ended: %v", w.answers.Err())
	}
	if err := json.Unmarshal(w.answers.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	return report
}

// settled asks until everything works, and adds up what was seen meanwhile.
func (w *watcher) settled(t *testing.T) watch.Report {
	t.Helper()
	deadline := time.Now().Add(recoverWithin)
	whole := w.ask1(t)
	for !whole.Settled && time.Now().Before(deadline) {
		next := w.ask1(t)
		whole.Settled, whole.Lost = next.Settled, next.Lost
		whole.Created += next.Created
		add(&whole.Connects, next.Connects)
		add(&whole.Gets, next.Gets)
		add(&whole.Informer, next.Informer)
		add(&whole.Watch, next.Watch)
		add(&whole.Logs, next.Logs)
	}
	return whole
}

func add(to *watch.Stream, next watch.Stream) {
	to.Silent = max(to.Silent, next.Silent)
	for reason, count := range next.Failures {
		to.Failures[reason] += count
	}
}

// row waits until everything works again, notes what was seen, and fails the test if something was lost or never came back.
func (w *watcher) row(t *testing.T, what string) watch.Report {
	t.Helper()
	report := w.settled(t)
	var failures []string
	for _, part := range []struct {
		name   string
		stream watch.Stream
	}{{"conn", report.Connects}, {"get", report.Gets}, {"informer", report.Informer}, {"get -w", report.Watch}, {"logs -f", report.Logs}} {
		for reason, count := range part.stream.Failures {
			failures = append(failures, fmt.Sprintf("%s: %d× %.60s", part.name, count, reason))
		}
	}
	slices.Sort(failures)
	ms := func(stream watch.Stream) string { return fmt.Sprintf("%.0f", stream.Silent) }
	row := fmt.Sprintf(rowFormat, what, ms(report.Connects), ms(report.Gets), ms(report.Informer), ms(report.Watch), ms(report.Logs), fmt.Sprint(report.Lost),
		strings.Join(failures, "; "))
	rows = append(rows, row)
	t.Logf("\n%s\n%s", header, row)
	if !report.Settled {
		t.Errorf("%s: not everything works again after %v", what, recoverWithin)
	}
	if report.Lost > 0 {
		t.Errorf("%s: %d of %d confirmed objects never reached the informer", what, report.Lost, report.Created)
	}
	return report
}

// modified is when a file was last written.
func modified(file string) time.Time {
	status, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return status.ModTime()
}
