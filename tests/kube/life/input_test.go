package life

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/cluster"
	"vipd/tests/kube/machine"
)

// failWithin bounds the wait for a pod with a mistake to end. Seconds are expected: the earlier pod drains its connections first.
const failWithin = 2 * time.Minute

// mistake is something wrong that a pod of vipd must name, and recover from once it is mended.
type mistake struct {
	name string
	// make breaks something on the node; what it changes is put back afterwards.
	make func(t *testing.T, node *machine.Machine)
	// names are words that the line in the log must have, so that an operator finds the place.
	names []string
	// statuses are the exit statuses that say what it is: of sysexits.h.
	statuses []int32
}

// The exit statuses: of a wrong configuration, of something that isn't there (yet, or because the configuration is wrong), and of a
// missing right.
var wrong, missing, forbidden = []int32{78}, []int32{69, 78}, []int32{77}

// breakConfiguration replaces vipd's file by another text.
func breakConfiguration(change func(text string) string) func(*testing.T, *machine.Machine) {
	return func(t *testing.T, node *machine.Machine) {
		t.Helper()
		text, err := os.ReadFile(node.Path(cluster.ConfigFile))
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Write(cluster.ConfigFile, change(string(text))); err != nil {
			t.Fatal(err)
		}
	}
}

// breakManifest replaces a text in vipd's manifest.
func breakManifest(old, replacement string) func(*testing.T, *machine.Machine) {
	return func(t *testing.T, node *machine.Machine) {
		t.Helper()
		text, err := os.ReadFile(node.Path(cluster.ManifestFile))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), old) {
			t.Fatalf("vipd's manifest has no %q:\n%s", old, text)
		}
		if err := node.Write(cluster.ManifestFile, strings.Replace(string(text), old, replacement, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

func mistakesWithPeers() []mistake {
	return []mistake{
		{"the file is missing", func(t *testing.T, node *machine.Machine) {
			t.Helper()
			if err := os.Remove(node.Path(cluster.ConfigFile)); err != nil {
				t.Fatal(err)
			}
		}, []string{cluster.ConfigFile}, wrong},
		{"the file is a directory", func(t *testing.T, node *machine.Machine) {
			t.Helper()
			path := node.Path(cluster.ConfigFile)
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
				t.Fatal(err)
			}
		}, []string{cluster.ConfigFile, "directory"}, wrong},
		{"the file is empty", breakConfiguration(func(string) string { return "" }), []string{cluster.ConfigFile}, wrong},
		{"the file has a wrong value", breakConfiguration(func(text string) string {
			return strings.Replace(text, "vip: "+cluster.VIP, "vip: 10.0.0.1620", 1)
		}), []string{cluster.ConfigFile, "10.0.0.1620"}, wrong},
		{"the interface doesn't exist", breakConfiguration(func(text string) string {
			return strings.Replace(text, "interface: ens3", "interface: ens33", 1)
		}), []string{"ens33"}, missing},
		{"the pod lacks NET_ADMIN", breakManifest("        - NET_ADMIN\n", ""), []string{"NET_ADMIN"}, forbidden},
	}
}

func mistakesWithALease() []mistake {
	return []mistake{
		{"the interface doesn't exist", breakManifest("value: "+machine.Interface, "value: ens33"), []string{"ens33"}, missing},
		{"the address is none", breakManifest("value: "+cluster.VIP, "value: 10.0.0.1620"), []string{"10.0.0.1620"}, wrong},
		{"the pod lacks NET_ADMIN", breakManifest("        - NET_ADMIN\n", ""), []string{"NET_ADMIN"}, forbidden},
	}
}

func TestAMistakeIsNamedInOneLineAndMended(t *testing.T) {
	if c.Form == cluster.DaemonSet {
		t.Skip("SKIPPED: the mistakes are made in static pods; nothing is different in a DaemonSet's")
	}
	mistakes := mistakesWithPeers()
	if c.Form == cluster.Pod {
		mistakes = mistakesWithALease()
	}
	awaitHealthy(t)
	for _, mistake := range mistakes {
		t.Run(mistake.name, func(t *testing.T) { makeMistake(t, mistake) })
	}
	awaitHealthy(t)
}

// makeMistake makes a mistake on a node that doesn't own the address, reads what the pod says, and mends it.
func makeMistake(t *testing.T, mistake mistake) {
	current := owner(t)
	node := c.ControlPlane[slices.IndexFunc(c.ControlPlane, func(m *machine.Machine) bool { return m != current })]
	// A new pod finds what is wrong. Mending a file later leaves that pod as it is: it has to recover by itself.
	round++
	restore := save(t, node, cluster.ManifestFile, cluster.ConfigFile)
	mistake.make(t, node)
	manifest, err := os.ReadFile(node.Path(cluster.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Write(cluster.ManifestFile, annotate(string(manifest), round)); err != nil {
		t.Fatal(err)
	}
	status, words := awaitFailure(t, node)
	t.Logf("exit status %d:\n%s", status, strings.Join(words, "\n"))
	if !slices.Contains(mistake.statuses, status) {
		t.Errorf("exit status %d, not one of %v", status, mistake.statuses)
	}
	// What is wrong is one line, and the first of its kind; lines of advice may follow it.
	said := slices.DeleteFunc(words, func(line string) bool { return !strings.HasPrefix(line, "error: ") })
	if len(said) == 0 {
		t.Fatal("no line says what is wrong")
	}
	for _, name := range mistake.names {
		if !strings.Contains(said[0], name) {
			t.Errorf("the line doesn't name %s: %s", name, said[0])
		}
	}
	restore()
	err = cluster.Await(within(t, recoverWithin), "vipd on "+node.Name, func(ctx context.Context) error {
		_, err := node.Run(ctx, "vipd", "status")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if now := owner(t); now != current {
		t.Errorf("the address moved from %s to %s", current.Name, now.Name)
	}
}

// save keeps files of a machine, the manifest as that of this round, and returns what puts them back.
func save(t *testing.T, node *machine.Machine, files ...string) func() {
	t.Helper()
	saved := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(node.Path(file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		saved[file] = string(text)
		if file == cluster.ManifestFile {
			saved[file] = annotate(string(text), round)
		}
	}
	restored := false
	restore := func() {
		if restored {
			return
		}
		restored = true
		for file, text := range saved {
			if status, err := os.Stat(node.Path(file)); err == nil && status.IsDir() {
				if err := os.Remove(node.Path(file)); err != nil {
					t.Error(err)
				}
			}
			if now, err := os.ReadFile(node.Path(file)); err == nil && string(now) == text {
				continue
			}
			if err := node.Write(file, text); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(restore)
	return restore
}

// awaitFailure returns how a container of the pod of this round ended, and what the kubelet has of its log.
func awaitFailure(t *testing.T, node *machine.Machine) (int32, []string) {
	t.Helper()
	var pod struct {
		Metadata struct{ Annotations map[string]string }
		Status   struct {
			ContainerStatuses []struct {
				LastState, State struct {
					Terminated *struct {
						ExitCode    int32
						ContainerID string
					}
				}
			}
		}
	}
	var status int32
	err := cluster.Await(within(t, failWithin), "an end of vipd's container on "+node.Name, func(ctx context.Context) error {
		text, err := c.Kubectl(ctx, "--request-timeout", "5s", "--namespace", "kube-system", "get", "pod", "vipd-"+node.Name, "--output", "json")
		if err != nil {
			return err
		}
		pod.Status.ContainerStatuses = nil
		if err := json.Unmarshal([]byte(text), &pod); err != nil {
			return err
		}
		if pod.Metadata.Annotations["vipd.test/round"] != fmt.Sprint(round) {
			return errors.New("the pod is still the earlier one")
		}
		for _, container := range pod.Status.ContainerStatuses {
			for _, ended := range []*struct {
				ExitCode    int32
				ContainerID string
			}{container.State.Terminated, container.LastState.Terminated} {
				if ended != nil && ended.ContainerID != "" {
					status = ended.ExitCode
					return nil
				}
			}
		}
		return errors.New("no container of it has ended")
	})
	if err != nil {
		t.Fatal(err)
	}
	return status, lastLog(t, node)
}

// lastLog reads what the last container of vipd's static pod that ended wrote, from the kubelet's own files: they are there before
// there is an API. Each container's log has a number, and the kubelet removes the older ones: the first that is left is of one that has ended.
func lastLog(t *testing.T, node *machine.Machine) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(node.Logs, "pods", "kube-system_vipd-"+node.Name+"_*", "vipd", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the kubelet of %s has no log of vipd: %v", node.Name, err)
	}
	newest := filepath.Dir(slices.MaxFunc(files, func(a, b string) int { return modified(a).Compare(modified(b)) }))
	files = slices.DeleteFunc(files, func(file string) bool { return filepath.Dir(file) != newest })
	// 9.log comes before 10.log.
	first := slices.MinFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	text, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		// TIME STREAM F WORDS
		if fields := strings.SplitN(strings.TrimSpace(line), " ", 4); len(fields) == 4 {
			lines = append(lines, fields[3])
		}
	}
	return lines
}
