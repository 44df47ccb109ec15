package restarts

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// slowMax bounds the connections that are made so that each apiserver has one.
const slowMax = 30

// slowWrite is a write whose client has begun to send it before an apiserver closes its port, and goes on after that. It is the worst
// case: nobody knows whether such a write was carried out when its connection breaks, so client-go doesn't repeat it.
type slowWrite struct {
	client http.Client
	config *rest.Config
	name   string
	// rest takes what is still to be sent; answered gets what became of it all.
	rest     *io.PipeWriter
	answered chan error
}

// connectSlowWrites makes so many connections for slow writes that each apiserver has one. Nobody else may be connected yet.
func (c *cluster) connectSlowWrites(ctx context.Context, t *testing.T) []*slowWrite {
	t.Helper()
	var slow []*slowWrite
	for len(slow) < slowMax {
		slow = append(slow, newSlowWrite(ctx, t, c.config))
		if !slices.ContainsFunc(c.status(t).Backends, func(one backend) bool { return one.Connections == 0 }) {
			return slow
		}
	}
	t.Fatalf("of %d connections none went to one of the apiservers: %s", len(slow), connectionsOf(c.status(t)))
	return nil
}

// newSlowWrite makes the connection.
func newSlowWrite(ctx context.Context, t *testing.T, config *rest.Config) *slowWrite {
	t.Helper()
	own, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &slowWrite{config: config, answered: make(chan error, 1)}
	s.client.Transport = &http.Transport{TLSClientConfig: own, ForceAttemptHTTP2: true}
	t.Cleanup(s.client.CloseIdleConnections)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("the apiserver speaks %s: the write would go over another connection", answer.Proto)
	}
	return s
}

// begin sends the first half.
func (s *slowWrite) begin(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	body, rest := io.Pipe()
	s.name, s.rest = name, rest
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.Host+"/api/v1/namespaces/"+namespace+"/configmaps", body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	go func() {
		answer, err := s.client.Do(request)
		if err == nil {
			text, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusCreated {
				err = fmt.Errorf("HTTP %d: %.200s", answer.StatusCode, text)
			}
		}
		_ = body.CloseWithError(err)
		s.answered <- err
	}()
	if _, err := fmt.Fprint(rest, `{"apiVersion":"v1","kind":"ConfigMap",`); err != nil {
		t.Errorf("the first half of a write could not be sent: %v", err)
	}
}

// end sends the second half, and tells what became of it all.
func (s *slowWrite) end() error {
	// If it can't be sent, the answer tells why.
	_, _ = fmt.Fprintf(s.rest, `"metadata":{"name":%q}}`, s.name)
	_ = s.rest.Close()
	select {
	case err := <-s.answered:
		return err
	case <-time.After(attemptWithin):
		return fmt.Errorf("no answer within %v", attemptWithin)
	}
}
