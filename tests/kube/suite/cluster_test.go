package suite

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/attempt"
	"vipd/tests/kube/lab"
)

// attemptWithin bounds one request. It exceeds the second after which TCP repeats a SYN that found nobody.
const attemptWithin = 5 * time.Second

// namespace is where the tests write.
const namespace = metav1.NamespaceDefault

// cluster is the control plane as its clients know it: one address, and the lab beside it.
type cluster struct {
	*lab.Lab
	config *rest.Config
}

// open connects to the lab and awaits a healthy control plane.
func open(t *testing.T) cluster {
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
	config.Timeout = 0 // watches stay; single requests have a context each
	config.QPS = -1    // the tests bound their own rates
	c := cluster{Lab: socket, config: config}
	c.awaitHealthy(t)
	return c
}

// awaitHealthy returns when there is an owner and each kube-apiserver is ready.
func (c cluster) awaitHealthy(t *testing.T) {
	t.Helper()
	c.AwaitOwner(t)
	for _, node := range lab.Nodes {
		c.AwaitReady(t, node)
	}
}

// client is a client with connections of its own; lost counts those that broke under it.
func (c cluster) client(t *testing.T, lost *atomic.Int64) *kubernetes.Clientset {
	t.Helper()
	own := rest.CopyConfig(c.config)
	// client-go's own keepalive: it is what finds a dead connection at last when nobody tells the client.
	dialer := net.Dialer{Timeout: attemptWithin, KeepAlive: 30 * time.Second}
	// client-go shares connections between clients with equal settings, except where a client dials by itself.
	own.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watched{Conn: connection, lost: lost}, nil
	}
	return mustClient(t, own)
}

// watched is a connection that counts its end, unless its owner closed it.
type watched struct {
	net.Conn
	lost *atomic.Int64
	once atomic.Bool
}

func (w *watched) Read(buffer []byte) (int, error) {
	n, err := w.Conn.Read(buffer)
	if err != nil && !errors.Is(err, net.ErrClosed) && !w.once.Swap(true) {
		w.lost.Add(1)
	}
	return n, err
}

// getOverNewConnection asks for a namespace over a new connection, with the server's certificate verified against the
// roots, or against those of the kubeconfig where there are none.
func (c cluster) getOverNewConnection(ctx context.Context, roots *x509.CertPool) error {
	own, err := rest.TLSConfigFor(c.config)
	if err != nil {
		return err
	}
	if roots != nil {
		own.RootCAs = roots
	}
	answer, err := attempt.Do(ctx, attemptWithin, own, http.MethodGet, c.config.Host+"/api/v1/namespaces/"+namespace, "")
	if err == nil && answer.Status != http.StatusOK {
		err = statusError{answer.Status, answer.Body}
	}
	return err
}

// statusError is an answer of the control plane that is not 200.
type statusError struct {
	code int
	body string
}

func (e statusError) Error() string { return fmt.Sprintf("HTTP %d: %.200s", e.code, e.body) }

// retriable names the class of a failure that a client gets over by trying again, or "" for one that it doesn't:
// a wrong certificate, a refused right, a missing object.
func retriable(err error) string {
	var unknownAuthority x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	var verification *tls.CertificateVerificationError
	var status statusError
	switch {
	case errors.As(err, &unknownAuthority), errors.As(err, &wrongHost), errors.As(err, &verification):
		return ""
	case errors.As(err, &status):
		switch status.code {
		case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return fmt.Sprintf("HTTP %d", status.code)
		}
		return ""
	case apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsTooManyRequests(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
		return "asked to try again"
	}
	return attempt.Failure(err)
}

func mustClient(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
