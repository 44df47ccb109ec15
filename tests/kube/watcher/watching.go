package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"vipd/tests/kube/attempt"
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

// regularly begins something each period, whether or not what was begun before has ended.
func regularly(ctx context.Context, period time.Duration, begin func()) {
	tickets := make(chan struct{}, inFlight)
	tick := time.NewTicker(period)
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
			begin()
		}()
	}
}

// ask asks for something, each time over a new connection.
func (w *watching) ask(ctx context.Context, config *rest.Config, path string, answers *stream) {
	own, err := rest.TLSConfigFor(config)
	if err != nil {
		answers.failed(err.Error())
		return
	}
	regularly(ctx, askEvery, func() {
		answer, err := attempt.Do(ctx, attemptWithin, own, http.MethodGet, config.Host+path, "")
		switch {
		case err != nil:
			answers.failed(reason(err))
		case answer.Status != http.StatusOK:
			answers.failed(fmt.Sprintf("HTTP %d", answer.Status))
		default:
			answers.alive()
		}
	})
}

// reason names the class of a failure, or the failure itself.
func reason(err error) string { return cmp.Or(attempt.Failure(err), err.Error()) }

// create makes a new object every so often, each over a new connection: one that hangs must not silence the informer. Only those
// whose creation was confirmed must be seen.
func (w *watching) create(ctx context.Context, config *rest.Config) {
	own, err := rest.TLSConfigFor(config)
	if err != nil {
		w.informed.failed(err.Error())
		return
	}
	var begun atomic.Int64
	regularly(ctx, createEvery, func() {
		name := fmt.Sprintf("object-%d-%d", time.Now().UnixNano(), begun.Add(1))
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}}`, name)
		url := config.Host + "/api/v1/namespaces/" + namespace + "/configmaps"
		answer, err := attempt.Do(ctx, attemptWithin, own, http.MethodPost, url, body)
		if err != nil || answer.Status != http.StatusCreated {
			return
		}
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.created[name] = time.Now()
		w.confirmed++
	})
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
