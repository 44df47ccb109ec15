package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"vipd/tests/kube/watch"
)

const (
	// namespace is where the objects go; the suite makes it.
	namespace = "watched"
	// askEvery is the pause between two requests over new connections.
	askEvery = 20 * time.Millisecond
	// inFlight bounds them: those of one attemptWithin, so that unanswered ones keep none from being asked.
	inFlight = int(attemptWithin / askEvery)
	// attemptWithin bounds one of them: longer than the second after which TCP repeats a SYN.
	attemptWithin = 3 * time.Second
	// createEvery is the pause between two new objects.
	createEvery = 100 * time.Millisecond
	// again is the pause before kubectl is started again.
	again = 100 * time.Millisecond
)

// watching is all that is watched.
type watching struct {
	connects, gets, informed, listed, logged *stream

	mutex   sync.Mutex
	created map[string]time.Time
	seen    map[string]bool
	// confirmed counts the objects created since the last report.
	confirmed int
}

// works says whether each way of looking has shown something after a time, and nothing created before is missing.
func (w *watching) works(since time.Time) bool {
	for _, stream := range []*stream{w.connects, w.gets, w.informed, w.listed, w.logged} {
		if !stream.aliveSince(since) {
			return false
		}
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for name, when := range w.created {
		if when.Before(since) && !w.seen[name] {
			return false
		}
	}
	return true
}

// report takes the period that ends now.
func (w *watching) report(settled bool) watch.Report {
	report := watch.Report{
		Settled: settled, Connects: w.connects.take(), Gets: w.gets.take(), Informer: w.informed.take(), Watch: w.listed.take(), Logs: w.logged.take(),
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	report.Created, w.confirmed = w.confirmed, 0
	for name := range w.created {
		switch {
		case w.seen[name]:
			delete(w.created, name)
			delete(w.seen, name)
		case !settled:
			report.Lost++
		}
	}
	return report
}

// ask asks for something, each time over a new connection, whether or not the last one has been answered.
func (w *watching) ask(ctx context.Context, config *rest.Config, path string, answers *stream) {
	own, err := rest.TLSConfigFor(config)
	if err != nil {
		answers.failed(err.Error())
		return
	}
	tickets := make(chan struct{}, inFlight)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case tickets <- struct{}{}:
		default:
			continue
		}
		go func() {
			defer func() { <-tickets }()
			if err := request(ctx, config.Host+path, own, http.MethodGet, "", http.StatusOK); err != nil {
				answers.failed(reason(err))
				return
			}
			answers.alive()
		}()
	}
}

// request makes one request over a connection of its own.
func request(ctx context.Context, url string, own *tls.Config, method, body string, wanted int) error {
	transport := &http.Transport{DialContext: (&net.Dialer{}).DialContext, TLSClientConfig: own, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, attemptWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != wanted {
		return fmt.Errorf("HTTP %d", response.StatusCode)
	}
	return nil
}

// reason names the class of a failure.
func reason(err error) string {
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
	return err.Error()
}

// create makes a new object every so often, each over a new connection: one that hangs must not silence the informer. Only those
// whose creation was confirmed must be seen.
func (w *watching) create(ctx context.Context, config *rest.Config) {
	own, err := rest.TLSConfigFor(config)
	if err != nil {
		w.informed.failed(err.Error())
		return
	}
	tickets := make(chan struct{}, inFlight)
	tick := time.NewTicker(createEvery)
	defer tick.Stop()
	for number := 0; ; number++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case tickets <- struct{}{}:
		default:
			continue
		}
		name := fmt.Sprintf("object-%d-%d", time.Now().UnixNano(), number)
		go func() {
			defer func() { <-tickets }()
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}}`, name)
			err := request(ctx, config.Host+"/api/v1/namespaces/"+namespace+"/configmaps", own, http.MethodPost, body, http.StatusCreated)
			if err != nil {
				return
			}
			w.mutex.Lock()
			defer w.mutex.Unlock()
			w.created[name] = time.Now()
			w.confirmed++
		}()
	}
}

// inform runs an informer, client-go's own way to stay up to date.
func (w *watching) inform(ctx context.Context, client kubernetes.Interface) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
		added, ok := object.(*corev1.ConfigMap)
		if !ok {
			return
		}
		w.informed.alive()
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.seen[added.Name] = true
	}})
	if err != nil {
		w.informed.failed(err.Error())
		return
	}
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { w.informed.failed(reason(err)) })
	factory.Start(ctx.Done())
	<-ctx.Done()
}

// follow runs a kubectl whose lines are signs of life, again and again; each end counts.
func (w *watching) follow(ctx context.Context, into *stream, arguments ...string) {
	for ctx.Err() == nil {
		command := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", kubeconfig}, arguments...)...)
		words := &strings.Builder{}
		command.Stderr = words
		output, err := command.StdoutPipe()
		if err == nil {
			err = command.Start()
		}
		if err != nil {
			into.failed(err.Error())
			return
		}
		for lines := bufio.NewScanner(output); lines.Scan(); {
			into.alive()
		}
		if err := command.Wait(); err != nil {
			// The cause alone: without the ports, which are others each time.
			parts := strings.Split(strings.TrimSpace(words.String()), ": ")
			into.failed(parts[len(parts)-1])
		} else {
			into.failed("ended")
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}
