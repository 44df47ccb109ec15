// Package lease proves the election by Kubernetes Lease on real control planes: vipd and client-go's own election side by side,
// one Lease, and everything that can happen to a holder.
//
// It runs inside a lab on which nothing runs but the control plane:
//
//	vipd-lab exec --kubernetes --bare -- lease.test -test.v
//
// Its environment:
//
//	LEASE_SEED=N          the schedule of the random changes; printed, and new each time
//	LEASE_CHANGES=N       how many of them; as many as three minutes hold if it is not set
//	LEASE_NODES=A,B,C     what runs on the nodes then: vipd or client-go [vipd,client-go,vipd]
//	LEASE_WITHOUT_VIPD=1  client-go in each place of vipd's: whether the tests agree with client-go alone
package lease

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/lab"
)

// The Lease of kube-vip's control plane.
const (
	leaseNamespace = "kube-system"
	leaseName      = "plndr-cp-lock"
)

// The processes of a node, as the lab calls them.
const (
	vipd        = "vipd"
	participant = "participant"
	apiserver   = "apiserver"
	etcd        = "etcd"
)

// lastLines is how much of a log a failure shows.
const lastLines = 12

// attemptWithin bounds one request of the tests' own.
const attemptWithin = 10 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	lab.Need(map[string]string{
		"LAB_SOCKET":       "the lab's control socket",
		"LAB_VIP":          "the virtual IP",
		"KUBECONFIG":       "the control plane behind the virtual IP",
		"VIPD_PARTICIPANT": "the client-go participant",
		"VIPD_BIN":         "the vipd to run",
	})
	os.Exit(m.Run())
}

// withoutVipd says whether client-go takes vipd's place everywhere.
func withoutVipd() bool { return os.Getenv("LEASE_WITHOUT_VIPD") != "" }

// pace is one of the lab's timings of a Lease.
type pace struct {
	seconds                   int
	lasts, renewWithin, retry time.Duration
}

// The paces of these tests: the fastest, so that much happens, and the one that everybody runs with.
var (
	quick = pace{2, 2 * time.Second, 1500 * time.Millisecond, 500 * time.Millisecond}
	usual = pace{15, 15 * time.Second, 10 * time.Second, 2 * time.Second}
)

// ofVipd and ofClientGo are systems of the lab.
func (p pace) ofVipd() string {
	if withoutVipd() {
		return p.ofClientGo()
	}
	return fmt.Sprintf("vipd-lease-%d", p.seconds)
}

func (p pace) ofClientGo() string { return fmt.Sprintf("client-go-%d", p.seconds) }

// process is the name of what holds the address in a system.
func process(system string) string {
	if isVipd(system) {
		return vipd
	}
	return participant
}

// cluster is the lab's control plane: each apiserver by itself, and what was run on its nodes.
type cluster struct {
	*lab.Lab
	nodes   map[string]lab.Node
	clients map[string]*kubernetes.Clientset
	tenures map[string][]tenure
	// began is when the test did.
	began time.Duration
}

// open connects to the lab, awaits a healthy control plane without a Lease, and leaves the nodes empty at the end.
func open(t *testing.T) *cluster {
	t.Helper()
	socket, err := lab.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(socket.Close)
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatalf("KUBECONFIG does not lead to a control plane: %v", err)
	}
	config.QPS = -1
	config.UserAgent = "lease.test"
	c := &cluster{
		Lab: socket, nodes: socket.Describe(t),
		clients: map[string]*kubernetes.Clientset{}, tenures: map[string][]tenure{},
	}
	for name, node := range c.nodes {
		own := rest.CopyConfig(config)
		own.Host = "https://" + node.Address + ":6443"
		client, err := kubernetes.NewForConfig(own)
		if err != nil {
			t.Fatal(err)
		}
		c.clients[name] = client
		c.AwaitReady(t, name)
	}
	c.clear(t)
	t.Cleanup(func() { c.clear(t) })
	_, c.began = c.History(t, 0)
	c.Observe(t)
	return c
}

// clear empties the nodes and deletes the Lease.
func (c *cluster) clear(t *testing.T) {
	t.Helper()
	for _, node := range lab.Nodes {
		c.Remove(t, node)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	lab.Await(t, ctx, "deletion of the Lease", func() bool {
		err := c.leases(lab.Nodes[0]).Delete(ctx, leaseName, metav1.DeleteOptions{})
		return err == nil || apierrors.IsNotFound(err)
	})
}

// leases is the way to the Lease through one node's apiserver.
func (c *cluster) leases(node string) coordination.LeaseInterface {
	return c.clients[node].CoordinationV1().Leases(leaseNamespace)
}

// now is the time of CLOCK_MONOTONIC.
func (c *cluster) now(t *testing.T) time.Duration {
	t.Helper()
	_, now := c.History(t, 1<<62)
	return now
}

// install starts a system on a node, in the place of what ran there, and takes it down for the judge.
func (c *cluster) install(t *testing.T, node, system string) {
	t.Helper()
	now := c.now(t)
	if tenures := c.tenures[node]; len(tenures) > 0 {
		tenures[len(tenures)-1].until = now
	}
	c.tenures[node] = append(c.tenures[node], tenure{system: system, from: now, until: 1 << 62})
	c.Install(t, node, system)
}

// system is what runs on a node.
func (c *cluster) system(node string) string {
	tenures := c.tenures[node]
	return tenures[len(tenures)-1].system
}

// strike sends SIGKILL or SIGSTOP to what holds the address on a node, and takes it down for the judge.
func (c *cluster) strike(t *testing.T, node, signal string) {
	t.Helper()
	run := &c.tenures[node][len(c.tenures[node])-1]
	run.struck = append(run.struck, c.now(t))
	c.Signal(t, node, process(run.system), signal)
}

// stays are the times for which nodes held the address since the test began.
func (c *cluster) stays(t *testing.T) []stay {
	t.Helper()
	changes, now := c.History(t, 0)
	var stays []stay
	for _, node := range lab.Nodes {
		stays = append(stays, staysOfVipd(node, c.tenures[node], changes, now)...)
		stays = append(stays, staysOfParticipant(node, c.journal(t, node))...)
	}
	// The nodes were empty when the test began: what an earlier test's participants might have led on for was taken off them.
	return slices.DeleteFunc(stays, func(stay stay) bool { return stay.from < c.began })
}

// journal is what the participants of a node have written down.
func (c *cluster) journal(t *testing.T, node string) []period {
	t.Helper()
	file, err := os.Open(filepath.Join(c.nodes[node].Folder, "participant.jsonl"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var lines []period
	for reader := bufio.NewScanner(file); reader.Scan(); {
		var line period
		if err := json.Unmarshal(reader.Bytes(), &line); err != nil {
			t.Fatalf("%s's journal has %q: %v", node, reader.Text(), err)
		}
		lines = append(lines, line)
	}
	return lines
}

// judge fails the test if two nodes held the address at once, or answered for it.
func (c *cluster) judge(t *testing.T) {
	t.Helper()
	for _, fault := range overlaps(c.stays(t)) {
		t.Error(fault)
	}
	if seen := c.Observe(t); seen.ARPAtOnce > 1 {
		t.Errorf("%d nodes answered one ARP request for the virtual IP", seen.ARPAtOnce)
	}
}

// awaitHolder returns when one node has the address and the Lease names it, another than before if that is not empty.
func (c *cluster) awaitHolder(t *testing.T, before string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	holder, found := "", false
	defer func() {
		if !found {
			c.lastWords(t)
		}
	}()
	lab.Await(t, ctx, "holder other than "+before, func() bool {
		holders := c.Holders(t)
		if len(holders) != 1 || holders[0] == before {
			return false
		}
		lease, err := c.read(ctx)
		holder = holders[0]
		return err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == holder
	})
	found = true
	return holder
}

// lastWords prints what the systems under test said last, and the Lease.
func (c *cluster) lastWords(t *testing.T) {
	t.Helper()
	for _, node := range lab.Nodes {
		for _, name := range []string{vipd, participant} {
			text, err := os.ReadFile(filepath.Join(c.nodes[node].Folder, name+".log"))
			if err == nil {
				lines := strings.Split(strings.TrimSpace(string(text)), "\n")
				t.Logf("%s of %s said last:\n%s", name, node, strings.Join(lines[max(0, len(lines)-lastLines):], "\n"))
			}
		}
	}
	lease, err := c.read(context.Background())
	t.Logf("the virtual IP is on %q; the Lease is %+v, %v", c.Holders(t), lease.Spec, err)
}

// read returns the Lease, from whichever apiserver answers first.
func (c *cluster) read(ctx context.Context) (*coordinationv1.Lease, error) {
	lease, err := &coordinationv1.Lease{}, error(nil)
	for _, node := range lab.Nodes {
		limited, cancel := context.WithTimeout(ctx, attemptWithin)
		lease, err = c.leases(node).Get(limited, leaseName, metav1.GetOptions{})
		cancel()
		if err == nil {
			break
		}
	}
	return lease, err
}

// skipWithoutVipd leaves out what is about vipd alone.
func skipWithoutVipd(t *testing.T) {
	t.Helper()
	if withoutVipd() {
		t.Skip("SKIPPED: LEASE_WITHOUT_VIPD is set")
	}
}

// composition is what LEASE_NODES says, a system for each node.
func composition(t *testing.T, pace pace) []string {
	t.Helper()
	text := os.Getenv("LEASE_NODES")
	if text == "" {
		text = "vipd,client-go,vipd"
	}
	var systems []string
	for _, name := range strings.Split(text, ",") {
		switch name {
		case "vipd":
			systems = append(systems, pace.ofVipd())
		case "client-go":
			systems = append(systems, pace.ofClientGo())
		default:
			t.Fatalf("LEASE_NODES has %q: it takes vipd and client-go", name)
		}
	}
	if len(systems) != len(lab.Nodes) {
		t.Fatalf("LEASE_NODES names %d of %d nodes", len(systems), len(lab.Nodes))
	}
	return systems
}
