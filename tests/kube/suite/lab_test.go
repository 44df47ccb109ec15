// Package suite drives a real control plane through the virtual IP while things break: client-go and kubectl on one side,
// three etcd members, three kube-apiservers and three vipd in network namespaces on the other.
//
// It runs inside the lab, which gives it the client's namespace, a kubeconfig and a control socket:
//
//	vipd-lab exec --kubernetes -- suite.test -test.v
//
// What is asserted is correctness, with deadlines far above what is expected; how long things took is printed.
package suite

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// answerWithin bounds one exchange with the lab: starting a process there may wait for the process to be up.
const answerWithin = 60 * time.Second

// lookEvery is the pause between two looks at a state that nobody announces.
const lookEvery = 50 * time.Millisecond

// The processes of a node, as the lab calls them.
const (
	vipd      = "vipd"
	apiserver = "apiserver"
)

// nodes are the lab's three nodes and their addresses.
var nodes = map[string]string{"master-1": "10.0.0.163", "master-2": "10.0.0.164", "master-3": "10.0.0.165"}

// kubectlCache is the folder of kubectl's discovery cache.
var kubectlCache string

func TestMain(m *testing.M) {
	flag.Parse()
	for name, what := range map[string]string{
		"LAB_SOCKET":    "the lab's control socket",
		"LAB_VIP":       "the virtual IP",
		"LAB_PORT":      "its port",
		"KUBECONFIG":    "the control plane behind the virtual IP",
		"VIPD_KUBE_BIN": "the folder that tests/kube/build prints",
	} {
		if os.Getenv(name) == "" {
			fmt.Fprintf(os.Stderr, "%s is not set (%s): this suite runs inside the lab, see tests/kube/run\n", name, what)
			os.Exit(2)
		}
	}
	folder, err := os.MkdirTemp("", "vipd-kubectl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	kubectlCache = folder
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// lab is the control socket of the lab around these tests: one JSON object per line, one answer to each.
type lab struct {
	mutex      sync.Mutex
	connection net.Conn
	answers    *bufio.Scanner
}

// observation is what the lab saw of the virtual IP's owners since it was last asked.
type observation struct {
	// Overlaps are the times when two nodes held the address at once.
	Overlaps []json.RawMessage `json:"overlaps"`
	// Moves are the changes of owner.
	Moves []json.RawMessage `json:"moves"`
}

// openLab connects to the lab's control socket.
func openLab() (*lab, error) {
	connection, err := net.DialTimeout("unix", os.Getenv("LAB_SOCKET"), answerWithin)
	if err != nil {
		return nil, err
	}
	return &lab{connection: connection, answers: bufio.NewScanner(connection)}, nil
}

// ask sends one request and fills the answer; a refusal by the lab is an error.
func (l *lab) ask(request map[string]any, answer any) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err := l.connection.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := l.connection.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("failed to send %s to the lab: %w", line, err)
	}
	if !l.answers.Scan() {
		return fmt.Errorf("the lab gave no answer to %s: %v", line, l.answers.Err())
	}
	var refusal struct{ Error string }
	if err := json.Unmarshal(l.answers.Bytes(), &refusal); err != nil {
		return fmt.Errorf("the lab's answer to %s is no JSON object: %s", line, l.answers.Text())
	}
	if refusal.Error != "" {
		return fmt.Errorf("the lab refuses %s: %s", line, refusal.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(l.answers.Bytes(), answer)
}

// do asks for something that has no answer but success.
func (l *lab) do(t *testing.T, request map[string]any) {
	t.Helper()
	if err := l.ask(request, nil); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) setLink(t *testing.T, node string, up bool) {
	t.Helper()
	l.do(t, map[string]any{"do": "link", "node": node, "up": up})
}

func (l *lab) signal(t *testing.T, node, process, signal string) {
	t.Helper()
	l.do(t, map[string]any{"do": "signal", "node": node, "process": process, "signal": signal})
}

func (l *lab) start(t *testing.T, node, process string) {
	t.Helper()
	l.do(t, map[string]any{"do": "start", "node": node, "process": process})
}

// observe takes what the lab has seen of owners since the last call.
func (l *lab) observe(t *testing.T) observation {
	t.Helper()
	var seen observation
	if err := l.ask(map[string]any{"do": "observe"}, &seen); err != nil {
		t.Fatal(err)
	}
	return seen
}

// owner is the node that holds the virtual IP, or nothing between two owners.
func (l *lab) owner(t *testing.T) string {
	t.Helper()
	var answer struct{ Owner *string }
	if err := l.ask(map[string]any{"do": "owner"}, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Owner == nil {
		return ""
	}
	return *answer.Owner
}

// awaitOwner returns the owner as soon as there is one that the condition accepts.
func (l *lab) awaitOwner(t *testing.T, ctx context.Context, acceptable func(string) bool) string {
	t.Helper()
	var owner string
	await(t, ctx, "an owner of the virtual IP", func() bool {
		owner = l.owner(t)
		return owner != "" && acceptable(owner)
	})
	return owner
}

// anyone accepts every owner.
func anyone(string) bool { return true }

// other accepts every owner but one.
func other(than string) func(string) bool { return func(owner string) bool { return owner != than } }

// await returns when the condition is true, and fails the test when the context ends first.
func await(t *testing.T, ctx context.Context, what string, condition func() bool) {
	t.Helper()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !condition() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("no %s: %v", what, ctx.Err())
		}
	}
}
