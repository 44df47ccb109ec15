// Package lab is the Go side of the lab's control socket: three nodes, what runs on them, and what the lab saw of the virtual IP.
package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// RecoverWithin bounds every recovery. Milliseconds to a few seconds are expected; three apiservers share two noisy cores.
const RecoverWithin = 90 * time.Second

// answerWithin bounds one exchange with the lab, which itself waits up to two minutes for an apiserver to be ready.
const answerWithin = 150 * time.Second

// lookEvery is the pause between two looks at a state that nobody announces.
const lookEvery = 50 * time.Millisecond

// answerMax is the largest answer: the whole history of the address has some ninety bytes a change, and 16 384 changes.
const answerMax = 4 << 20

// Nodes are the lab's.
var Nodes = []string{"master-1", "master-2", "master-3"}

// Need ends the process unless each of these variables is set; said is what it is for.
func Need(said map[string]string) {
	for name, what := range said {
		if os.Getenv(name) == "" {
			fmt.Fprintf(os.Stderr, "%s is not set (%s): this suite runs inside the lab, see tests/kube/run\n", name, what)
			os.Exit(2)
		}
	}
}

// Lab is the control socket of the lab around these tests: one JSON object per line, one answer to each.
type Lab struct {
	mutex      sync.Mutex
	connection net.Conn
	answers    *bufio.Scanner
}

// Observation is what the lab saw of the virtual IP's owners since it was last asked.
type Observation struct {
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

// Open connects to the lab's control socket.
func Open() (*Lab, error) {
	connection, err := net.DialTimeout("unix", os.Getenv("LAB_SOCKET"), answerWithin)
	if err != nil {
		return nil, err
	}
	answers := bufio.NewScanner(connection)
	answers.Buffer(nil, answerMax)
	return &Lab{connection: connection, answers: answers}, nil
}

// Close ends the connection.
func (l *Lab) Close() { _ = l.connection.Close() }

// Ask sends one request and fills the answer; a refusal by the lab is an error.
func (l *Lab) Ask(request map[string]any, answer any) error {
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

// Do asks for something that has no answer but success.
func (l *Lab) Do(t *testing.T, request map[string]any) {
	t.Helper()
	if err := l.Ask(request, nil); err != nil {
		t.Fatal(err)
	}
}

// SetLink switches a node's port on or off.
func (l *Lab) SetLink(t *testing.T, node string, up bool) {
	t.Helper()
	l.Do(t, map[string]any{"do": "link", "node": node, "up": up})
}

// Signal sends a signal to a process of a node: KILL, STOP and CONT reach its whole group.
func (l *Lab) Signal(t *testing.T, node, process, signal string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "signal", "node": node, "process": process, "signal": signal})
}

// Start starts a process again, once it has ended.
func (l *Lab) Start(t *testing.T, node, process string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "start", "node": node, "process": process})
}

// Stop asks a process of a node to end, and returns when it has.
func (l *Lab) Stop(t *testing.T, node, process string) {
	t.Helper()
	var answer struct{ Graceful bool }
	if err := l.Ask(map[string]any{"do": "stop", "node": node, "process": process}, &answer); err != nil {
		t.Fatal(err)
	}
	if !answer.Graceful {
		t.Errorf("%s on %s had to be killed: it didn't end within half a minute of SIGTERM", process, node)
	}
}

// Install starts a system, as the lab's `compare` names it, on one node, in the place of what runs there.
func (l *Lab) Install(t *testing.T, node, system string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "install", "node": node, "system": system})
}

// Remove kills what keeps the virtual IP on a node, and takes the addresses off.
func (l *Lab) Remove(t *testing.T, node string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "remove", "node": node})
}

// DeleteVIP takes the virtual addresses off a node by hand.
func (l *Lab) DeleteVIP(t *testing.T, node string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "delete-vip", "node": node})
}

// Node is a node as the lab describes it.
type Node struct {
	Name, Address, Folder string
	Running               []string
}

// Describe returns the nodes, by name.
func (l *Lab) Describe(t *testing.T) map[string]Node {
	t.Helper()
	var answer struct{ Nodes []Node }
	if err := l.Ask(map[string]any{"do": "nodes"}, &answer); err != nil {
		t.Fatal(err)
	}
	nodes := map[string]Node{}
	for _, node := range answer.Nodes {
		nodes[node.Name] = node
	}
	return nodes
}

// Holders are the nodes that have the virtual IP now.
func (l *Lab) Holders(t *testing.T) []string {
	t.Helper()
	var answer struct{ Holders []string }
	if err := l.Ask(map[string]any{"do": "owner"}, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Holders
}

// Change is an address that came to a node or left it; its time is that of CLOCK_MONOTONIC.
type Change struct {
	At      time.Duration `json:"ns"`
	Node    string
	Address string
	Held    bool
}

// History returns the changes since a time, and the time now.
func (l *Lab) History(t *testing.T, since time.Duration) ([]Change, time.Duration) {
	t.Helper()
	var answer struct {
		Now     time.Duration `json:"now_ns"`
		Changes []Change
	}
	if err := l.Ask(map[string]any{"do": "history", "since_ns": since.Nanoseconds()}, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Changes, answer.Now
}

// Observe takes what the lab has seen of owners since the last call.
func (l *Lab) Observe(t *testing.T) Observation {
	t.Helper()
	var seen Observation
	if err := l.Ask(map[string]any{"do": "observe"}, &seen); err != nil {
		t.Fatal(err)
	}
	return seen
}

// AwaitOwner returns the owner as soon as there is exactly one.
func (l *Lab) AwaitOwner(t *testing.T) string {
	t.Helper()
	return l.awaitOwnerAs(t, map[string]any{})
}

// AwaitOtherOwner returns the owner as soon as it is another than before.
func (l *Lab) AwaitOtherOwner(t *testing.T, before string) string {
	t.Helper()
	return l.awaitOwnerAs(t, map[string]any{"not": before})
}

func (l *Lab) awaitOwnerAs(t *testing.T, request map[string]any) string {
	t.Helper()
	request["do"] = "await-owner"
	request["within_ms"] = RecoverWithin.Milliseconds()
	var answer struct{ Owner string }
	if err := l.Ask(request, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Owner
}

// AwaitReady returns when a node's kube-apiserver says that it is ready.
func (l *Lab) AwaitReady(t *testing.T, node string) {
	t.Helper()
	l.Do(t, map[string]any{"do": "await-ready", "node": node})
}

// Await returns when the condition is true, and fails the test when the context ends first.
func Await(t *testing.T, ctx context.Context, what string, condition func() bool) {
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
