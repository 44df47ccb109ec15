// Package attempt makes single requests over connections of their own, and names what they failed of.
package attempt

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// longestAnswer bounds what is read of an answer, in bytes.
const longestAnswer = 1 << 20

// Answer is what a server said.
type Answer struct {
	// Status is the status code of HTTP.
	Status int
	// Body is at most the first mebibyte of it.
	Body string
}

// Do makes one request over a connection of its own, which takes no longer than the limit. The body is JSON.
func Do(ctx context.Context, limit time.Duration, config *tls.Config, method, url, body string) (Answer, error) {
	transport := &http.Transport{DialContext: (&net.Dialer{}).DialContext, TLSClientConfig: config, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer))
	return Answer{response.StatusCode, string(text)}, err
}

// Failure names the class of a failure of the connection; it is empty for any other.
func Failure(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	// net/http reports these ends of a connection without a type.
	for _, text := range []string{"http2: client connection lost", "http2: server sent GOAWAY", "http: server closed idle connection"} {
		if strings.Contains(err.Error(), text) {
			return "closed"
		}
	}
	return ""
}
