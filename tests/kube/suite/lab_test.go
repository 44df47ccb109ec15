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

// answerWithin bounds one exchange with the lab, which itself waits up to two minutes for an apiserver to be ready.
const answerWithin = 150 * time.Second

// lookEvery is the pause between two looks at a state that nobody announces.
const lookEvery = 50 * time.Millisecond

// The processes of a node, as the lab calls them.
const (
	vipd      = "vipd"
	apiserver = "apiserver"
)

// nodes are the lab's.
var nodes = []string{"master-1", "master-2", "master-3"}

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
	// Holders are the nodes that have the address now.
	Holders []string
	// Moves are the changes of owner.
	Moves []struct{ From, To string }
	// Overlaps are the times when several nodes had the address at once.
	Overlaps []struct {
		Nodes        []string
		Milliseconds float64 `json:"ms"`
	}
	// ARPAtOnce is the largest number of nodes that answered one ARP request for the address.
	ARPAtOnce int `json:"arp_at_once"`
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

// awaitOwner returns the owner as soon as there is exactly one; awaitOtherOwner, as soon as it is another than before.
func (l *lab) awaitOwner(t *testing.T) string {
	t.Helper()
	return l.awaitOwnerAs(t, map[string]any{})
}

func (l *lab) awaitOtherOwner(t *testing.T, before string) string {
	t.Helper()
	return l.awaitOwnerAs(t, map[string]any{"not": before})
}

func (l *lab) awaitOwnerAs(t *testing.T, request map[string]any) string {
	t.Helper()
	request["do"] = "await-owner"
	request["within_ms"] = recoverWithin.Milliseconds()
	var answer struct{ Owner string }
	if err := l.ask(request, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Owner
}

// awaitReady returns when a node's kube-apiserver says that it is ready.
func (l *lab) awaitReady(t *testing.T, node string) {
	t.Helper()
	l.do(t, map[string]any{"do": "await-ready", "node": node})
}

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
