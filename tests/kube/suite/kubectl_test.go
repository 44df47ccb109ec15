package suite

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vipd/tests/kube/lab"
)

func TestKubectlWorksThroughTheVirtualIPWithTheCertificateVerified(t *testing.T) {
	c := open(t)
	endpoint := fmt.Sprintf("https://%s:%s", os.Getenv("LAB_VIP"), os.Getenv("LAB_PORT"))
	if c.config.Host != endpoint {
		t.Fatalf("the kubeconfig leads to %s, not to the virtual IP's %s", c.config.Host, endpoint)
	}
	if c.config.Insecure || len(c.config.CAData)+len(c.config.CAFile) == 0 {
		t.Fatal("the kubeconfig doesn't verify the server's certificate")
	}
	name := fmt.Sprintf("kubectl-%d", time.Now().UnixNano())

	kubectl(t, "create", "configmap", name, "--from-literal=said=hello")
	if said := kubectl(t, "get", "configmap", name, "-o", "jsonpath={.data.said}"); said != "hello" {
		t.Errorf("the ConfigMap that kubectl created says %q", said)
	}
	if namespaces := kubectl(t, "get", "namespaces", "-o", "name"); !strings.Contains(namespaces, "namespace/kube-system") {
		t.Errorf("kubectl get namespaces shows %q", namespaces)
	}

	// The verification is real: with another authority's certificate as the only root, the same server is refused.
	err := c.getOverNewConnection(context.Background(), anotherAuthority(t))
	if err == nil || retriable(err) != "" || !strings.Contains(err.Error(), "x509") {
		t.Errorf("a client that trusts another authority got: %v", err)
	}
}

// A proxied connection ends with the owner it went through, and kubectl ends with its connection: what a user must get is that
// end at once, not a terminal that has gone silent. So `kubectl get -w` in a loop misses nothing.
func TestKubectlGetWatchInALoopGoesOnWhenTheOwnerIsStopped(t *testing.T) {
	c := open(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*lab.RecoverWithin)
	defer cancel()
	owner := c.AwaitOwner(t)
	c.Observe(t)

	stop := make(chan struct{})
	stopWriting := sync.OnceFunc(func() { close(stop) })
	var writing, watching sync.WaitGroup
	watchingUntil, stopWatching := context.WithCancel(ctx)
	defer func() { stopWriting(); writing.Wait(); stopWatching(); watching.Wait() }()

	writer := &writer{prefix: fmt.Sprintf("get-w-%d", time.Now().UnixNano())}
	loop := &watchLoop{label: writer.prefix}
	client := c.client(t, &writer.lost)
	watching.Go(func() { loop.run(watchingUntil, t) })
	writing.Go(func() { writer.run(ctx, t, client, stop) })

	awaitMore(ctx, t, "lines of kubectl get -w before the fault", &loop.pace)
	c.Signal(t, owner, vipd, "TERM")
	c.AwaitOtherOwner(t, owner)
	c.Start(t, owner, vipd)
	awaitMore(ctx, t, "lines of kubectl get -w after the fault", &loop.pace)
	stopWriting()
	writing.Wait()
	lab.Await(t, ctx, "kubectl get -w that shows the last writes", func() bool { return loop.has(writer.written) })
	stopWatching()
	watching.Wait()

	assertOneOwner(t, c.Observe(t))
	t.Logf("kubectl get -w ran %d times; longest silence %v; writes got over: %s", loop.runs, loop.longestPause(), &writer.failures)
}

// watchLoop is `while true; do kubectl get configmaps -w; done`.
type watchLoop struct {
	watcher
	label string
	runs  int
}

func (l *watchLoop) run(ctx context.Context, t *testing.T) {
	l.seen = map[string][]int{}
	// A run that ends at once, because nobody is there to answer, is not repeated faster than this.
	every := time.NewTicker(askEvery)
	defer every.Stop()
	for ctx.Err() == nil {
		l.runs++
		if err := l.once(ctx, t); err != nil {
			t.Error(err)
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
		}
	}
}

// once runs one kubectl to its end, and takes down each line that it shows.
func (l *watchLoop) once(ctx context.Context, t *testing.T) error {
	command := kubectlCommand(ctx, "get", "configmaps", "-w", "-l", "suite="+l.label, "--no-headers",
		"-o", "custom-columns=NAME:.metadata.name,NUMBER:.data.number")
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var name string
		var number int
		if _, err := fmt.Sscan(lines.Text(), &name, &number); err != nil {
			return fmt.Errorf("kubectl shows %q: %w", lines.Text(), err)
		}
		l.mutex.Lock()
		l.seen[name] = append(l.seen[name], number)
		l.mutex.Unlock()
		l.success()
	}
	// Its exit code doesn't matter: it is non-zero when nobody answered, and when the test ended it.
	_ = command.Wait()
	return nil
}

// awaitMore returns when a pace has got on by what counts as steady.
func awaitMore(ctx context.Context, t *testing.T, what string, pace *pace) {
	t.Helper()
	goal := pace.successes() + steadyWrites
	lab.Await(t, ctx, what, func() bool { return pace.successes() >= goal })
}

// kubectl runs kubectl and returns what it prints.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	command := kubectlCommand(ctx, arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(arguments, " "), err, stderr.String())
	}
	return string(output)
}

// kubectlCommand is a kubectl of the pinned version that leaves nothing in the user's home folder.
func kubectlCommand(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv("VIPD_KUBE_BIN"), "kubectl"), arguments...)
	command.Env = append(os.Environ(), "KUBECACHEDIR="+kubectlCache)
	command.Stderr = io.Discard
	command.WaitDelay = attemptWithin
	return command
}

// anotherAuthority is a root that has signed nothing.
func anotherAuthority(t *testing.T) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "another authority"},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return roots
}
