// Package restarts proves what clients notice when real kube-apiservers behind vipd's balancer are restarted: client-go's watches and
// informers, each over a connection of its own, and short requests beside them.
//
// It runs inside a lab on which nothing runs but the control plane, and whose apiservers go on serving for a while when they are told to end:
//
//	vipd-lab exec --kubernetes --bare --shutdown-delay 15 -- restarts.test -test.v
package restarts

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/lab"
)

const (
	// apiserver is the process of a node that is restarted, as the lab calls it.
	apiserver = "apiserver"
	// apiserverPort is where each listens.
	apiserverPort = "6443"
	// namespace is where the tests write.
	namespace = metav1.NamespaceDefault
	// attemptWithin bounds one request.
	attemptWithin = 10 * time.Second
	// lastLines is how much of vipd's log a failure shows.
	lastLines = 15
	// endsWithin bounds the end of an apiserver: its shutdown delay, and the minute that it gives whoever is still connected.
	endsWithin = 2 * time.Minute
)

func TestMain(m *testing.M) {
	flag.Parse()
	lab.Need(map[string]string{
		"LAB_SOCKET": "the lab's control socket",
		"LAB_VIP":    "the virtual IP",
		"KUBECONFIG": "the control plane behind the virtual IP",
		"VIPD_BIN":   "the vipd to run",
	})
	os.Exit(m.Run())
}

// cluster is the control plane behind the balancer at the virtual IP.
type cluster struct {
	*lab.Lab
	nodes  map[string]lab.Node
	config *rest.Config
}

// open connects to the lab, installs a system of the lab on each node, and awaits an owner of the virtual IP whose balancer stands before
// three apiservers that are ready. It leaves the nodes empty at the end.
func open(t *testing.T, system string) *cluster {
	t.Helper()
	socket, err := lab.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(socket.Close)
	c := &cluster{Lab: socket, nodes: socket.Describe(t)}
	for _, node := range lab.Nodes {
		c.AwaitReady(t, node)
		c.Install(t, node, system)
		t.Cleanup(func() { c.Remove(t, node) })
	}
	c.AwaitOwner(t)
	// The lab has written where the system's clients connect.
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatalf("KUBECONFIG does not lead to a control plane: %v", err)
	}
	config.QPS = -1    // the tests bound their own rates
	config.Timeout = 0 // watches stay; single requests have a context each
	c.config = config
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	for _, node := range lab.Nodes {
		c.awaitHealth(ctx, t, node, "ready")
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.lastWords(t)
		}
	})
	return c
}

// lastWords prints what vipd said last.
func (c *cluster) lastWords(t *testing.T) {
	t.Helper()
	for _, node := range lab.Nodes {
		if text, err := os.ReadFile(filepath.Join(c.nodes[node].Folder, "vipd.log")); err == nil {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("vipd of %s said last:\n%s", node, strings.Join(lines[max(0, len(lines)-lastLines):], "\n"))
		}
	}
}

// backend is a part of what `vipd status --json` says of one.
type backend struct {
	Name, Address, Health string
	Connections           int
	Total                 uint64
	ConnectFailures       uint64 `json:"connect_failures"`
}

// balancer is a part of what it says of a load balancer.
type balancer struct {
	Rebalanced uint64
	Refused    uint64
	Backends   []backend
}

// status is what the balancer says that clients are connected to: the owner's.
func (c *cluster) status(t *testing.T) balancer {
	t.Helper()
	holders := c.Holders(t)
	if len(holders) != 1 {
		t.Fatalf("the virtual IP is on %q", holders)
	}
	command := exec.Command(os.Getenv("VIPD_BIN"), "status", "--json", "--socket", filepath.Join(c.nodes[holders[0]].Folder, "vipd.sock"))
	text, err := command.Output()
	if err != nil {
		t.Fatalf("vipd status on %s: %v", holders[0], err)
	}
	var status struct {
		LoadBalancers []balancer `json:"load_balancers"`
	}
	if err := json.Unmarshal(text, &status); err != nil || len(status.LoadBalancers) != 1 {
		t.Fatalf("vipd status --json on %s: %v\n%s", holders[0], err, text)
	}
	return status.LoadBalancers[0]
}

// of is what is said of a node's apiserver.
func (b balancer) of(t *testing.T, node lab.Node) backend {
	t.Helper()
	place := slices.IndexFunc(b.Backends, func(one backend) bool { return one.Address == net.JoinHostPort(node.Address, apiserverPort) })
	if place < 0 {
		t.Fatalf("the balancer doesn't stand before %s: %+v", node.Address, b.Backends)
	}
	return b.Backends[place]
}

// fullest is the node whose apiserver has the most connections.
func (c *cluster) fullest(t *testing.T) string {
	t.Helper()
	status := c.status(t)
	return slices.MaxFunc(lab.Nodes, func(one, other string) int {
		return status.of(t, c.nodes[one]).Connections - status.of(t, c.nodes[other]).Connections
	})
}

// awaitHealth returns when the balancer holds a node's apiserver for this, and what it says of it then.
func (c *cluster) awaitHealth(ctx context.Context, t *testing.T, node, health string) backend {
	t.Helper()
	var found backend
	lab.Await(t, ctx, health+" apiserver of "+node, func() bool {
		found = c.status(t).of(t, c.nodes[node])
		return found.Health == health
	})
	return found
}

// awaitEnd returns when a node's apiserver has ended.
func (c *cluster) awaitEnd(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), endsWithin)
	defer cancel()
	lab.Await(t, ctx, "end of the apiserver of "+node, func() bool {
		return !slices.Contains(c.Describe(t)[node].Running, apiserver)
	})
}

// client is a client with a connection of its own. That it could not connect is a fault: there is always somebody behind the balancer.
func (c *cluster) client(t *testing.T, faults *journal) *kubernetes.Clientset {
	t.Helper()
	own := rest.CopyConfig(c.config)
	dialer := net.Dialer{Timeout: attemptWithin, KeepAlive: 30 * time.Second}
	// client-go shares connections between clients with equal settings, except where a client dials by itself.
	own.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dialer.DialContext(ctx, network, address)
		if err != nil && ctx.Err() == nil {
			faults.add("failed to connect: %v", err)
		}
		return connection, err
	}
	client, err := kubernetes.NewForConfig(own)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// connectionsOf tells how many connections each apiserver has.
func connectionsOf(status balancer) string {
	var each []string
	for _, one := range status.Backends {
		each = append(each, fmt.Sprint(one.Connections))
	}
	return strings.Join(each, " + ")
}
