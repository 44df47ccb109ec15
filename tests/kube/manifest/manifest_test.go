// Package manifest gives the static pods that vipd prints to the kubelet's own file source: the code that reads
// /etc/kubernetes/manifests on a node, with its defaults, its validation and its rules for static pods.
package manifest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/config"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// patience is how long the kubelet's file source may take for one file; it takes milliseconds, and the machine is noisy.
const patience = 30 * time.Second

func TestTheKubeletAcceptsThePrintedStaticPod(t *testing.T) {
	pod, err := readAsKubelet(t, printed(t))
	if err != nil {
		t.Fatalf("the kubelet complains about the manifest: %v", err)
	}

	// The kubelet appends the node's name to a static pod's.
	if want := "vipd-master-1"; pod.Name != want {
		t.Errorf("the pod's name is %q, want %q", pod.Name, want)
	}
	if pod.Namespace != "kube-system" {
		t.Errorf("the pod's namespace is %q, want kube-system", pod.Namespace)
	}
	if !pod.Spec.HostNetwork {
		t.Error("the pod has a network of its own, so it can't hold an address of the host")
	}
	if len(pod.Spec.Containers) != 1 {
		t.Fatalf("the pod has %d containers, want 1", len(pod.Spec.Containers))
	}
	container := pod.Spec.Containers[0]
	if container.Image == "" || !strings.Contains(filepath.Base(container.Image), ":") {
		t.Errorf("the image %q has no tag, so users would have to edit the manifest", container.Image)
	}
	assertCapabilities(t, container)
	assertConfigIsMounted(t, pod.Spec, container)
	assertProbes(t, pod.Spec)
}

// likeKubeVip are the flags of a pod in the place of kube-vip's.
var likeKubeVip = []string{"manifest", "pod", "--interface", "ens3", "--address", "10.0.0.162", "--controlplane", "--arp", "--leaderElection"}

func TestTheKubeletAcceptsThePodInKubeVipsPlace(t *testing.T) {
	pod, err := readAsKubelet(t, printed(t, likeKubeVip...))
	if err != nil {
		t.Fatalf("the kubelet complains about the manifest: %v", err)
	}
	if !pod.Spec.HostNetwork || len(pod.Spec.Containers) != 1 {
		t.Fatalf("not one container on the host's network: %+v", pod.Spec)
	}
	assertCapabilities(t, pod.Spec.Containers[0])
	assertProbes(t, pod.Spec)
}

func TestThePrintedStaticPodsHaveNoFieldThatKubernetesDoesNotKnow(t *testing.T) {
	for _, arguments := range [][]string{nil, likeKubeVip} {
		if err := decodeStrictly(printed(t, arguments...)); err != nil {
			t.Errorf("strict decoding refuses the manifest: %v", err)
		}
	}
}

// assertProbes checks that what the kubelet will ask, with its own defaults filled in, can be asked in an image that has nothing
// but vipd, and that it doesn't end a vipd for a moment's weakness.
func assertProbes(t *testing.T, spec v1.PodSpec) {
	t.Helper()
	container := spec.Containers[0]
	for name, probe := range map[string]*v1.Probe{
		"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe,
	} {
		if probe == nil || probe.Exec == nil {
			t.Errorf("the %s probe runs no command: %+v", name, probe)
			continue
		}
		if command := probe.Exec.Command; len(command) < 2 || command[0] != "/vipd" || command[1] != "health" {
			t.Errorf("the %s probe runs %q", name, command)
		}
		if ready := slices.Contains(probe.Exec.Command, "--ready"); ready != (name == "readiness") {
			t.Errorf("the %s probe asks %q", name, probe.Exec.Command)
		}
		// vipd health waits for five seconds.
		if probe.TimeoutSeconds <= 5 {
			t.Errorf("the %s probe is cut off after %d s", name, probe.TimeoutSeconds)
		}
	}
	if live := container.LivenessProbe; live != nil && live.PeriodSeconds*live.FailureThreshold < 60 {
		t.Errorf("a vipd that stalls for %d × %d s is ended", live.FailureThreshold, live.PeriodSeconds)
	}
	// 15 s for connections, 2 s for the address.
	if grace := spec.TerminationGracePeriodSeconds; grace == nil || *grace < 17 {
		t.Errorf("a pod that ends has %v s", grace)
	}
}

// The two checks above can fail: the same code refuses what is wrong on purpose.
func TestAWrongManifestIsRefused(t *testing.T) {
	good := printed(t)
	withoutImage := replaced(t, good, "image:", "imagePullPolicy: Always #")
	if _, err := readAsKubelet(t, withoutImage); err == nil || !strings.Contains(err.Error(), "image") {
		t.Errorf("the kubelet's answer to a pod without an image is %v", err)
	}
	misspelt := replaced(t, good, "hostNetwork:", "hostNetwrok:")
	if err := decodeStrictly(misspelt); err == nil || !strings.Contains(err.Error(), "hostNetwrok") {
		t.Errorf("the strict decoder's answer to a misspelt field is %v", err)
	}
}

func assertCapabilities(t *testing.T, container v1.Container) {
	t.Helper()
	security := container.SecurityContext
	if security == nil || security.Capabilities == nil {
		t.Fatal("the container asks for no capabilities, so it can't set an address")
	}
	if security.Privileged != nil && *security.Privileged {
		t.Error("the container is privileged: it needs two capabilities, not all")
	}
	// Addresses and nftables need NET_ADMIN, ARP and ND frames NET_RAW, which CRI-O doesn't give by default.
	for _, needed := range []v1.Capability{"NET_ADMIN", "NET_RAW"} {
		if !slices.Contains(security.Capabilities.Add, needed) {
			t.Errorf("the container lacks the capability %s: %v", needed, security.Capabilities.Add)
		}
	}
	for _, asked := range security.Capabilities.Add {
		if !slices.Contains([]v1.Capability{"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SYS_NICE", "IPC_LOCK"}, asked) {
			t.Errorf("the container asks for %s, which nothing in vipd uses", asked)
		}
	}
}

// assertConfigIsMounted checks that the file named after -c in the command comes from the host.
func assertConfigIsMounted(t *testing.T, spec v1.PodSpec, container v1.Container) {
	t.Helper()
	command := append(slices.Clone(container.Command), container.Args...)
	if len(command) < 4 || command[0] != "/vipd" || command[1] != "start" || command[2] != "-c" {
		t.Fatalf("the container runs %q, want /vipd start -c FILE", command)
	}
	file := command[3]
	for _, mount := range container.VolumeMounts {
		relative, err := filepath.Rel(mount.MountPath, file)
		if err != nil || strings.HasPrefix(relative, "..") {
			continue
		}
		for _, volume := range spec.Volumes {
			if volume.Name == mount.Name && volume.HostPath != nil {
				if !strings.HasPrefix(filepath.Join(volume.HostPath.Path, relative), "/etc/") {
					t.Errorf("the configuration %s comes from the host's %s, which is not in /etc", file, volume.HostPath.Path)
				}
				return
			}
		}
	}
	t.Errorf("no volume of the host is mounted over the configuration %s: %+v", file, container.VolumeMounts)
}

// readAsKubelet runs the document through the kubelet's file source and its merging of sources.
// The error is the kubelet's first complaint.
func readAsKubelet(t *testing.T, document []byte) (*v1.Pod, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vipd.yaml")
	if err := os.WriteFile(file, document, 0o600); err != nil {
		t.Fatal(err)
	}

	// The file source tells its log alone what it refuses and what it warns of; at the lowest verbosity, it tells nothing else.
	// One complaint is enough to fail; more are dropped.
	complaints := make(chan string, 1)
	log := funcr.New(func(_, text string) {
		select {
		case complaints <- text:
		default:
		}
	}, funcr.Options{})

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	recorder := record.NewBroadcaster(record.WithContext(ctx)).NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet"})
	pods := config.NewPodConfig(recorder, nobody{})
	config.NewSourceFile(log, file, "master-1", patience, pods.Channel(ctx, kubetypes.FileSource))
	for {
		select {
		case update := <-pods.Updates():
			if update.Op != kubetypes.ADD || len(update.Pods) != 1 {
				continue
			}
			select {
			case complaint := <-complaints: // it was taken, with a warning
				return nil, errors.New(complaint)
			default:
				return update.Pods[0], nil
			}
		case complaint := <-complaints:
			return nil, errors.New(complaint)
		case <-ctx.Done():
			t.Fatalf("the kubelet's file source said nothing for %v", patience)
		}
	}
}

// nobody takes the place of the observer that measures how long pods take to start.
type nobody struct{}

func (nobody) ObservedPodOnWatch(klog.Logger, *v1.Pod, time.Time) {}

// decodeStrictly refuses fields that Kubernetes doesn't know and fields that are there twice, as `kubectl --validate=strict` does.
func decodeStrictly(document []byte) error {
	known := runtime.NewScheme()
	if err := v1.AddToScheme(known); err != nil {
		return err
	}
	codecs := serializer.NewCodecFactory(known, serializer.EnableStrict)
	_, _, err := codecs.UniversalDeserializer().Decode(document, &schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, nil)
	return err
}

// printed is the standard output of `vipd sample manifest`, or of vipd with other arguments.
func printed(t *testing.T, arguments ...string) []byte {
	t.Helper()
	if len(arguments) == 0 {
		arguments = []string{"sample", "manifest"}
	}
	binary := os.Getenv("VIPD_BIN")
	if binary == "" {
		t.Fatal("VIPD_BIN names no vipd: run tests/kube/run, or set it to the path of a built binary")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, binary, arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	document, err := command.Output()
	if err != nil {
		t.Fatalf("vipd %s: %v: %s", strings.Join(arguments, " "), err, stderr.String())
	}
	return document
}

// replaced is the document with the first occurrence of a text that must be there replaced.
func replaced(t *testing.T, document []byte, from, to string) []byte {
	t.Helper()
	if !bytes.Contains(document, []byte(from)) {
		t.Fatalf("the manifest has no %q:\n%s", from, document)
	}
	return bytes.Replace(document, []byte(from), []byte(to), 1)
}
