package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"vipd/tests/kube/lab"
)

const (
	// hasIP is the label of the Node that has the address.
	hasIP = "kube-vip.io/has-ip"
	// ownerNote is the annotation of the Lease that tells of its holder.
	ownerNote = "vipd.io/owner"
	// printed is the account of `vipd manifest rbac`; poor one that has the rights to the Lease and to list nodes, as kube-vip's has.
	printed, poor = "vipd", "vipd-poor"
)

// What the API is told of moves, with just the rights that `vipd manifest rbac` prints, and what becomes of a move where these are missing.
func TestMovesAreToldToTheClusterAndAreNotHeldUpWhereTheyMayNot(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	c.forgetEvents(t)
	first, second := lab.Nodes[0], lab.Nodes[1]
	configs := map[string]string{}
	for _, node := range []string{first, second} {
		c.addNode(t, node)
		config, _ := c.files(t, node)
		configs[node] = replaced(t, config, "\n  memory:", "\n  nodeLabel: true\n  memory:")
	}
	c.applyRights(t)
	c.makePoor(t)
	began := time.Now()
	runs := map[string]*run{}
	start := func(node, account string) {
		folder := t.TempDir()
		kubeconfig := filepath.Join(folder, "kubeconfig")
		c.writeToken(t, leaseNamespace, account, kubeconfig)
		runs[node] = c.runVipd(t, node, folder, replaced(t, configs[node], os.Getenv("KUBECONFIG"), kubeconfig))
	}

	start(first, printed)
	start(second, printed)
	old := c.awaitHolder(t, "")
	next := first
	if old == first {
		next = second
	}
	c.awaitEvent(t, old, "VirtualIPClaimed", corev1.EventTypeNormal, "nobody is known to have had it")
	c.awaitLabel(t, old)
	c.awaitRemark(t, old)

	runs[old].assertPowerless(t, "vip-record")

	c.DeleteVIP(t, old)
	c.awaitEvent(t, old, "VirtualIPRestored", corev1.EventTypeWarning, "put back")

	// A planned move, told by both.
	runs[old].signal(t, syscall.SIGTERM)
	c.awaitOwner(t, next)
	c.awaitEvent(t, old, "VirtualIPReleased", corev1.EventTypeNormal, "was here for")
	c.awaitEvent(t, next, "VirtualIPClaimed", corev1.EventTypeNormal, old+" let go of the Lease; ")
	c.awaitLabel(t, next)
	c.awaitRemark(t, next)

	// An owner that dies leaves its label behind.
	start(old, printed)
	c.awaitFollower(t, runs[old], next)
	runs[next].signal(t, syscall.SIGKILL)
	c.awaitOwner(t, old)
	c.awaitEvent(t, old, "VirtualIPClaimed", corev1.EventTypeWarning, next+" fell silent; ")
	c.awaitLabel(t, old)
	c.awaitRemark(t, old)

	described := c.kubectl(t, "describe", "node", old)
	for _, words := range []string{"VirtualIPClaimed", "vipd", next + " fell silent", hasIP + "=" + os.Getenv("LAB_VIP")} {
		if !strings.Contains(described, words) {
			t.Errorf("no %q in what kubectl describes:\n%s", words, described)
		}
	}
	if described := c.kubectl(t, "--namespace", leaseNamespace, "describe", "lease", leaseName); !strings.Contains(described, ownerNote+": "+old+"@") {
		t.Errorf("the Lease is described without its owner:\n%s", described)
	}

	// Where nothing of this is permitted, the address moves all the same.
	start(next, poor)
	c.awaitFollower(t, runs[next], old)
	told := len(c.events(t, next))
	runs[old].signal(t, syscall.SIGTERM)
	c.awaitOwner(t, next)
	c.awaitRemark(t, next)
	for _, line := range []string{"moves are not written as Events", "the owner's Node has no label"} {
		runs[next].awaitLine(t, line, "vipd manifest rbac")
	}
	runs[next].signal(t, syscall.SIGTERM) // a second Event, which is refused too
	<-runs[next].ended
	for _, line := range []string{"moves are not written as Events", "the owner's Node has no label"} {
		if count := strings.Count(runs[next].text(), line); count != 1 {
			t.Errorf("%q is said %d times:\n%s", line, count, runs[next].text())
		}
	}
	if after := len(c.events(t, next)); after != told {
		t.Errorf("%s had %d Events, and has %d", next, told, after)
	}
	if seen := c.Observe(t); seen.ARPAtOnce > 1 {
		t.Errorf("%d nodes answered one ARP request for the virtual IP", seen.ARPAtOnce)
	}

	// Where no Lease elects, the API is told if the file says so; later, where there is no way to it yet.
	folder := t.TempDir()
	kubeconfig := filepath.Join(folder, "kubeconfig")
	alone := replaced(t, configs[next], "election: kubernetes\n", "singleNode: true\n")
	alone = replaced(t, alone, "nodeLabel: true", "events: true")
	c.runVipd(t, next, folder, replaced(t, alone, os.Getenv("KUBECONFIG"), kubeconfig))
	c.awaitOwner(t, next)
	late := time.Now()
	c.writeToken(t, leaseNamespace, printed, kubeconfig)
	c.awaitEvent(t, next, "VirtualIPClaimed", corev1.EventTypeNormal, "nobody is known to have had it")
	for _, event := range c.events(t, next) {
		if !strings.Contains(event.Note, "nobody is known to have had it") {
			continue
		}
		if event.Related != nil || event.EventTime.After(late) {
			t.Errorf("told at %v, of what happened before %v: %+v", event.EventTime, late, event)
		}
	}
	t.Logf("it took %v", time.Since(began).Round(time.Millisecond))
}

// signal sends a signal, and returns when the process has ended by it.
func (r *run) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := r.command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(spokenBy):
		t.Fatalf("it goes on after %v:\n%s", signal, r.text())
	}
}

// awaitLine returns when one line has all of these words.
func (r *run) awaitLine(t *testing.T, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), spokenBy)
	defer cancel()
	lab.Await(t, ctx, "line with "+strings.Join(words, " and "), func() bool {
		return slices.ContainsFunc(strings.Split(r.text(), "\n"), func(line string) bool {
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
		})
	})
}

// assertPowerless fails the test unless a thread of this name has no capabilities.
func (r *run) assertPowerless(t *testing.T, name string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil || !strings.HasPrefix(string(status), "Name:\t"+name+"\n") {
			continue
		}
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
			if !strings.Contains(string(status), "\n"+set+":\t0000000000000000\n") {
				t.Errorf("%s of %s is not empty:\n%s", set, name, status)
			}
		}
		return
	}
	t.Errorf("no thread is called %s", name)
}

// awaitFollower returns when a vipd knows who leads.
func (c *cluster) awaitFollower(t *testing.T, r *run, leader string) {
	t.Helper()
	r.awaitLine(t, "follows", leader)
}

// awaitOwner returns when just this node has the address and the Lease.
func (c *cluster) awaitOwner(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	lab.Await(t, ctx, "address on "+node, func() bool { return slices.Equal(c.Holders(t), []string{node}) })
}

// forgetEvents deletes what earlier tests' nodes have told.
func (c *cluster) forgetEvents(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	all := c.clients[lab.Nodes[0]].EventsV1().Events(corev1.NamespaceDefault)
	if err := all.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

// events are those of a Node.
func (c *cluster) events(t *testing.T, node string) []eventsv1.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	list, err := c.clients[lab.Nodes[2]].EventsV1().Events(corev1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(event eventsv1.Event) bool {
		return event.Regarding.Kind != "Node" || event.Regarding.Name != node
	})
}

// awaitEvent returns when a Node has an Event of this kind with these words.
func (c *cluster) awaitEvent(t *testing.T, node, reason, kind, words string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), spokenBy)
	defer cancel()
	var found []eventsv1.Event
	defer func() {
		if t.Failed() {
			for _, event := range found {
				t.Logf("%s has an Event: %s %s: %s", node, event.Type, event.Reason, event.Note)
			}
		}
	}()
	lab.Await(t, ctx, fmt.Sprintf("%s %s of %s with %q", kind, reason, node, words), func() bool {
		found = c.events(t, node)
		return slices.ContainsFunc(found, func(event eventsv1.Event) bool {
			return event.Reason == reason && event.Type == kind && strings.Contains(event.Note, words) && event.ReportingController == "vipd"
		})
	})
}

// awaitLabel returns when just this Node is labelled as the one that has the address.
func (c *cluster) awaitLabel(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), spokenBy)
	defer cancel()
	var names []string
	defer func() {
		if t.Failed() {
			t.Logf("the label is on %v", names)
		}
	}()
	lab.Await(t, ctx, "label on "+node+" alone", func() bool {
		list, err := c.clients[lab.Nodes[2]].CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: hasIP + "=" + os.Getenv("LAB_VIP")})
		if err != nil {
			return false
		}
		names = nil
		for _, one := range list.Items {
			names = append(names, one.Name)
		}
		return slices.Equal(names, []string{node})
	})
}

// awaitRemark returns when the Lease says of this node, its holder, that it has the address.
func (c *cluster) awaitRemark(t *testing.T, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), spokenBy)
	defer cancel()
	var said string
	defer func() {
		if t.Failed() {
			t.Logf("the Lease says %q", said)
		}
	}()
	lab.Await(t, ctx, "remark on "+node, func() bool {
		lease, err := c.read(ctx)
		if err != nil || lease.Spec.LeaseTransitions == nil {
			return false
		}
		said = lease.Annotations[ownerNote]
		return strings.HasPrefix(said, fmt.Sprintf("%s@%d: %s/24", node, *lease.Spec.LeaseTransitions, os.Getenv("LAB_VIP")))
	})
}

// kubectl asks the third node's apiserver, whatever has the address.
func (c *cluster) kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	server := "--server=https://" + c.nodes[lab.Nodes[2]].Address + ":6443"
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv("VIPD_KUBE_BIN"), "kubectl"), append([]string{server}, arguments...)...)
	command.Env = append(os.Environ(), "KUBECACHEDIR="+t.TempDir())
	text, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, text)
	}
	return string(text)
}

// applyRights makes the account and rights that vipd prints.
func (c *cluster) applyRights(t *testing.T) {
	t.Helper()
	rights, err := exec.Command(os.Getenv("VIPD_BIN"), "manifest", "rbac", "--enableNodeLabeling").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rbac.yaml")
	if err := os.WriteFile(file, rights, 0o600); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "apply", "-f", file)
	t.Cleanup(func() { c.kubectl(t, "delete", "--wait=false", "-f", file) })
}

// makePoor makes an account that may take part in the election and nothing else.
func (c *cluster) makePoor(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	client := c.clients[lab.Nodes[0]]
	meta := metav1.ObjectMeta{Name: poor, Namespace: leaseNamespace}
	accounts := client.CoreV1().ServiceAccounts(leaseNamespace)
	roles, bindings := client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	t.Cleanup(func() {
		// What is there no more needs no deleting.
		_ = bindings.Delete(context.Background(), poor, metav1.DeleteOptions{})
		_ = roles.Delete(context.Background(), poor, metav1.DeleteOptions{})
		_ = accounts.Delete(context.Background(), poor, metav1.DeleteOptions{})
	})
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "list", "watch", "create", "update"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
	}
	_, errAccount := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, errRole := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: poor}, Rules: rules}, metav1.CreateOptions{})
	_, errBinding := bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: poor},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: poor},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: poor, Namespace: leaseNamespace}},
	}, metav1.CreateOptions{})
	if err := errors.Join(errAccount, errRole, errBinding); err != nil {
		t.Fatal(err)
	}
}

// writeToken writes a kubeconfig with a token of an account.
func (c *cluster) writeToken(t *testing.T, namespace, account, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	accounts := c.clients[lab.Nodes[2]].CoreV1().ServiceAccounts(namespace)
	token, err := accounts.CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	admin.AuthInfos = map[string]*clientcmdapi.AuthInfo{account: {Token: token.Status.Token}}
	for _, one := range admin.Contexts {
		one.AuthInfo = account
	}
	if err := clientcmd.WriteToFile(*admin, file); err != nil {
		t.Fatal(err)
	}
}
