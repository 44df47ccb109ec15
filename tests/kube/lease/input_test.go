package lease

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vipd/tests/kube/lab"
)

// spokenBy is when vipd must have said what is wrong.
const spokenBy = 30 * time.Second

// linesMax is how many lines of one complaint are still clear: a retry every half second would make more within the time that a
// heal takes.
const linesMax = 6

// exConfig is sysexits(3)'s EX_CONFIG.
const exConfig = 78

// badInput is something an operator gets wrong, or hasn't got right yet.
type badInput struct {
	// spoil changes the configuration and the kubeconfig, texts both, and returns them.
	spoil func(t *testing.T, c *cluster, config, kubeconfig string) (string, string)
	// says are words of the one line that says what is wrong.
	says []string
	// heal makes it right while vipd runs; without it, vipd must end with EX_CONFIG.
	heal func(t *testing.T, c *cluster, kubeconfigFile, goodKubeconfig string)
}

// rewritten puts the good kubeconfig in the place of the spoilt one, as kubeadm does.
func rewritten(t *testing.T, _ *cluster, file, good string) {
	t.Helper()
	part := file + ".part"
	if err := errors.Join(os.WriteFile(part, []byte(good), 0o600), os.Rename(part, file)); err != nil {
		t.Fatal(err)
	}
}

var badInputs = map[string]badInput{
	"a kubeconfig that is no YAML": {
		spoil: func(_ *testing.T, _ *cluster, config, _ string) (string, string) {
			return config, "apiVersion: [v1\n{{{"
		},
		says: []string{"kubeconfig"},
		heal: rewritten,
	},
	"an authority that is not there": {
		spoil: func(t *testing.T, _ *cluster, config, kubeconfig string) (string, string) {
			authority := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), "ca.crt")
			return config, replaced(t, kubeconfig, authority, filepath.Join(t.TempDir(), "ca.crt"))
		},
		says: []string{"ca.crt"},
		heal: rewritten,
	},
	"an authority that is no certificate": {
		spoil: func(t *testing.T, c *cluster, config, kubeconfig string) (string, string) {
			file := filepath.Join(t.TempDir(), "ca.crt")
			if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
				t.Fatal(err)
			}
			return config, replaced(t, kubeconfig, filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), "ca.crt"), file)
		},
		says: []string{"ca.crt"},
		heal: rewritten,
	},
	"a certificate that has expired": {
		spoil: func(t *testing.T, _ *cluster, config, kubeconfig string) (string, string) {
			return config, replaced(t, kubeconfig, "admin.", "expired.")
		},
		says: []string{"401", "nauthorized", "xpired"},
		heal: rewritten,
	},
	"a user without rights": {
		spoil: func(t *testing.T, _ *cluster, config, kubeconfig string) (string, string) {
			return config, replaced(t, kubeconfig, "admin.", "stranger.")
		},
		says: []string{"403", "orbidden"},
		heal: func(t *testing.T, c *cluster, _, _ string) {
			ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
			defer cancel()
			binding := &rbac.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "lab-stranger"},
				RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
				Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "lab-stranger"}},
			}
			bindings := c.clients[lab.Nodes[0]].RbacV1().ClusterRoleBindings()
			if _, err := bindings.Create(ctx, binding, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = bindings.Delete(context.Background(), binding.Name, metav1.DeleteOptions{})
			})
		},
	},
	"a Lease in a namespace that is not there": {
		spoil: func(t *testing.T, _ *cluster, config, kubeconfig string) (string, string) {
			return replaced(t, config, "lease: kube-system/", "lease: not-there-yet/"), kubeconfig
		},
		says: []string{"not-there-yet"},
		heal: func(t *testing.T, c *cluster, _, _ string) {
			ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
			defer cancel()
			namespace := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "not-there-yet"}}
			_, err := c.clients[lab.Nodes[0]].CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		},
	},
	"a VIP that is the node's own address": {
		spoil: func(t *testing.T, _ *cluster, config, kubeconfig string) (string, string) {
			return replaced(t, config, os.Getenv("LAB_VIP")+"/24", "10.0.0.163/24"), kubeconfig
		},
		says: []string{"10.0.0.163"},
	},
}

func TestWhatAnOperatorGetsWrongIsSaidInOneLineAndHealsWhereTimeCanHealIt(t *testing.T) {
	skipWithoutVipd(t)
	for name, input := range badInputs {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			node := lab.Nodes[0]
			config, good := c.files(t, node)
			spoiltConfig, spoiltKubeconfig := input.spoil(t, c, config, good)
			folder := t.TempDir()
			kubeconfig := filepath.Join(folder, "kubeconfig")
			rewritten(t, c, kubeconfig, spoiltKubeconfig)
			spoiltConfig = replaced(t, spoiltConfig, os.Getenv("KUBECONFIG"), kubeconfig)
			before := addresses(t, node)

			run := c.runVipd(t, node, folder, spoiltConfig)
			ctx, cancel := context.WithTimeout(context.Background(), spokenBy)
			defer cancel()
			lab.Await(t, ctx, "line with one of "+strings.Join(input.says, ", "), func() bool { return len(run.lines(input.says)) > 0 })
			if input.heal == nil {
				if code := run.code(t); code != exConfig {
					t.Errorf("it ended with %d, want %d", code, exConfig)
				}
			} else {
				pause(2 * quick.lasts) // the same complaint again and again would show
				if run.over() {
					t.Fatalf("it ended, and time would have healed it:\n%s", run.text())
				}
			}
			if after := addresses(t, node); after != before {
				t.Errorf("the node's addresses were %q, and are %q", before, after)
			}
			said := run.lines(input.says)
			if len(said) > linesMax {
				t.Errorf("it said so %d times:\n%s", len(said), strings.Join(said, "\n"))
			}
			t.Logf("it says: %s", said[0])
			if strings.Contains(run.text(), "panicked") {
				t.Errorf("it panicked:\n%s", run.text())
			}
			if input.heal != nil {
				input.heal(t, c, kubeconfig, good)
				healed := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
				defer cancel()
				lab.Await(t, ctx, "lead after what was wrong was put right", func() bool { return slices.Equal(c.Holders(t), []string{node}) })
				t.Logf("it leads %v after what was wrong was put right", time.Since(healed).Round(time.Millisecond))
			}
		})
	}
}

// A node's name may have capitals; Kubernetes', and so the holder, can't.
func TestANodeNameWithCapitalsIsWrittenInLowerCase(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	node := lab.Nodes[0]
	config, _ := c.files(t, node)
	c.runVipd(t, node, t.TempDir(), replaced(t, config, "node: "+node, "node: Master-1"))
	if holder := c.awaitHolder(t, ""); holder != node {
		t.Errorf("the holder is %q", holder)
	}
}

// files are the configuration that the lab writes for a node, and the kubeconfig that it names.
func (c *cluster) files(t *testing.T, node string) (config, kubeconfig string) {
	t.Helper()
	c.install(t, node, quick.ofVipd())
	c.clear(t)
	written, err := os.ReadFile(filepath.Join(c.nodes[node].Folder, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	named, err := os.ReadFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	return string(written), string(named)
}

// run is a vipd of the tests' own on a node.
type run struct {
	command *exec.Cmd
	ended   chan struct{}
	mutex   sync.Mutex
	output  bytes.Buffer
}

// Write takes what it says.
func (r *run) Write(text []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.output.Write(text)
}

// runVipd starts vipd on a node, to be ended with the test.
func (c *cluster) runVipd(t *testing.T, node, folder, config string) *run {
	t.Helper()
	file := filepath.Join(folder, "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	run := &run{ended: make(chan struct{})}
	run.command = exec.Command("nsenter", "--net=/run/netns/"+node, os.Getenv("VIPD_BIN"), "start", "-c", file, "--socket", filepath.Join(folder, "vipd.sock"))
	run.command.Stdout, run.command.Stderr = run, run
	if err := run.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = run.command.Wait()
		close(run.ended)
	}()
	t.Cleanup(func() {
		_ = run.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-run.ended:
		case <-time.After(spokenBy):
			t.Error("vipd didn't end on SIGTERM")
			_ = run.command.Process.Kill()
			<-run.ended
		}
		if t.Failed() {
			t.Logf("vipd said:\n%s", run.text())
		}
	})
	return run
}

func (r *run) text() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.output.String()
}

// lines are those with one of the words that complain: what vipd tells of itself at its start may have them, too.
func (r *run) lines(words []string) []string {
	return slices.DeleteFunc(strings.Split(r.text(), "\n"), func(line string) bool {
		return strings.Contains(line, " INFO ") || strings.Contains(line, " DEBUG ") || !slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) })
	})
}

func (r *run) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// code is its exit code, once it has ended.
func (r *run) code(t *testing.T) int {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(spokenBy):
		t.Fatalf("it goes on:\n%s", r.text())
	}
	return r.command.ProcessState.ExitCode()
}

// addresses are all addresses of a node, as text.
func addresses(t *testing.T, node string) string {
	t.Helper()
	output, err := exec.Command("ip", "-netns", node, "-oneline", "-family", "inet", "address", "show").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

// replaced is a text with each occurrence of something that must be there replaced.
func replaced(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("there is no %q in:\n%s", from, text)
	}
	return strings.ReplaceAll(text, from, to)
}
