package restarts

import (
	"context"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// informer is one of client-go's, with a connection of its own, and what it went through.
type informer struct {
	mutex  sync.Mutex
	number int
	// lists counts how often everything was asked for.
	lists int
	// gaps are the times between the end of a watch and the next event.
	gaps []ended
	// events are those that came, but for what was there at the beginning.
	events []event
}

// event is when something was written, and when the informer told of it.
type event struct{ written, told time.Time }

// last is the number that it knows.
func (i *informer) last() int {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	return i.number
}

// run informs of what a writer writes until the context ends.
func (i *informer) run(ctx context.Context, client *kubernetes.Clientset, writer *writer, faults *journal) {
	configMaps := client.CoreV1().ConfigMaps(namespace)
	selector := "metadata.name=" + writer.name
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			i.listed()
			return configMaps.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			if options.SendInitialEvents != nil && *options.SendInitialEvents {
				i.listed()
			}
			stream, err := configMaps.Watch(ctx, options)
			if err != nil {
				return nil, err
			}
			return i.tap(ctx, stream), nil
		},
	}
	shared := cache.NewSharedIndexInformer(source, &corev1.ConfigMap{}, 0, nil)
	note := func(object any) {
		came, err := number(object)
		if err != nil {
			faults.add("an informer brought: %v", err)
			return
		}
		i.note(came, writer.written(came))
	}
	if _, err := shared.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    note,
		UpdateFunc: func(_, object any) { note(object) },
	}); err != nil {
		faults.add("an informer takes no handler: %v", err)
		return
	}
	shared.RunWithContext(ctx)
}

func (i *informer) listed() {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.lists++
}

func (i *informer) note(number int, written time.Time) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if number > 0 {
		i.events = append(i.events, event{written, time.Now()})
	}
	i.number = number
}

// delays are how far behind an informer was.
type delays struct {
	// most is the longest from a write until it was told.
	most time.Duration
	// beyond is the longest that remains when the time is taken off for which the informer was between two watches.
	beyond time.Duration
}

func (i *informer) delays() delays {
	var all delays
	for _, event := range i.events {
		took := event.told.Sub(event.written)
		all.most = max(all.most, took)
		for _, gap := range i.gaps {
			from, until := gap.at, gap.resumed
			if from.Before(event.written) {
				from = event.written
			}
			if until.After(event.told) {
				until = event.told
			}
			took -= max(0, until.Sub(from))
		}
		all.beyond = max(all.beyond, took)
	}
	return all
}

// tapped is a watch whose end is noted, and that the next one has gone on.
type tapped struct {
	watch.Interface
	events chan watch.Event
}

func (t *tapped) ResultChan() <-chan watch.Event { return t.events }

func (i *informer) tap(ctx context.Context, stream watch.Interface) watch.Interface {
	tapped := &tapped{stream, make(chan watch.Event)}
	go func() {
		defer close(tapped.events)
		for event := range stream.ResultChan() {
			i.resumed()
			select {
			case tapped.events <- event:
			case <-ctx.Done():
				stream.Stop()
				return
			}
		}
		if ctx.Err() == nil {
			i.interrupted()
		}
	}()
	return tapped
}

func (i *informer) interrupted() {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.gaps = append(i.gaps, ended{at: time.Now()})
}

func (i *informer) resumed() {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if last := len(i.gaps) - 1; last >= 0 && i.gaps[last].resumed.IsZero() {
		i.gaps[last].resumed = time.Now()
	}
}

// The check that the test relies on can fail.
func TestADelayIsWhatNoReconnectExplains(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	informer := &informer{
		events: []event{{at(0), at(1)}, {at(10), at(20)}},
		gaps:   []ended{{at: at(8), resumed: at(14)}},
	}
	if found, want := informer.delays(), (delays{10 * time.Second, 6 * time.Second}); found != want {
		t.Errorf("%+v, want %+v", found, want)
	}
}
