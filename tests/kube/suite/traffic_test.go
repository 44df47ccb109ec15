package suite

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// writeEvery and askEvery bound the request rate: 20 writes and 10 new connections a second leave most of two cores to the
// three apiservers that have to recover at the same time.
const (
	writeEvery = 50 * time.Millisecond
	askEvery   = 100 * time.Millisecond
)

// objects is the number of ConfigMaps that the writer goes round: few, so that each has a history whose order shows.
const objects = 10

// pace measures the longest pause between two successes.
type pace struct {
	mutex   sync.Mutex
	count   int
	last    time.Time
	longest time.Duration
}

func (p *pace) success() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	now := time.Now()
	if p.count > 0 {
		p.longest = max(p.longest, now.Sub(p.last))
	}
	p.count, p.last = p.count+1, now
}

func (p *pace) successes() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.count
}

func (p *pace) longestPause() time.Duration {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.longest.Round(time.Millisecond)
}

// failures counts what clients got over, by class.
type failures struct {
	mutex sync.Mutex
	count map[string]int
}

func (f *failures) add(class string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.count == nil {
		f.count = map[string]int{}
	}
	f.count[class]++
}

func (f *failures) String() string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if len(f.count) == 0 {
		return "none"
	}
	var classes []string
	for _, class := range slices.Sorted(maps.Keys(f.count)) {
		classes = append(classes, fmt.Sprintf("%d %s", f.count[class], class))
	}
	return strings.Join(classes, ", ")
}

// persist repeats an attempt until it succeeds; what a client would not repeat fails the test.
func persist(ctx context.Context, t *testing.T, every *time.Ticker, failed *failures, what string, attempt func(context.Context) error) bool {
	for {
		limited, cancel := context.WithTimeout(ctx, attemptWithin)
		err := attempt(limited)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		class := retriable(err)
		if class == "" {
			t.Errorf("%s failed in a way that no client gets over by trying again: %v", what, err)
			return false
		}
		failed.add(class)
		select {
		case <-every.C:
		case <-ctx.Done():
			return false
		}
	}
}

// writer gives ConfigMaps ever higher numbers, one write at a time, each repeated until it is acknowledged.
type writer struct {
	pace
	failures
	prefix string
	lost   atomic.Int64
	// written are the acknowledged numbers by object; to be read once the writer has ended.
	written map[string][]int
}

// run writes until `stop` closes. It fails the test for a write that isn't acknowledged before the context ends.
func (w *writer) run(ctx context.Context, t *testing.T, client *kubernetes.Clientset, stop <-chan struct{}) {
	w.written = map[string][]int{}
	every := time.NewTicker(writeEvery)
	defer every.Stop()
	configMaps := client.CoreV1().ConfigMaps(namespace)
	for number := 0; ; number++ {
		select {
		case <-stop:
			return
		case <-every.C:
		}
		object := &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", w.prefix, number%objects), Labels: map[string]string{"suite": w.prefix}},
			Data:       map[string]string{"number": strconv.Itoa(number)},
		}
		acknowledged := persist(ctx, t, every, &w.failures, "a write", func(ctx context.Context) error {
			if number < objects {
				_, err := configMaps.Create(ctx, object, metav1.CreateOptions{})
				if apierrors.IsAlreadyExists(err) {
					return nil // an earlier attempt was applied, and its answer got lost
				}
				return err
			}
			_, err := configMaps.Update(ctx, object, metav1.UpdateOptions{})
			return err
		})
		if !acknowledged {
			t.Errorf("write %d was never acknowledged: %v", number, ctx.Err())
			return
		}
		w.written[object.Name] = append(w.written[object.Name], number)
		w.success()
	}
}

// asker asks over a new connection each time, like every client that has just started.
type asker struct {
	pace
	failures
}

func (a *asker) run(ctx context.Context, t *testing.T, c cluster, stop <-chan struct{}) {
	every := time.NewTicker(askEvery)
	defer every.Stop()
	for {
		select {
		case <-stop:
			return
		case <-every.C:
		}
		if !persist(ctx, t, every, &a.failures, "a new request", func(ctx context.Context) error {
			return c.getOverNewConnection(ctx, nil)
		}) {
			t.Errorf("a new request was never answered: %v", ctx.Err())
			return
		}
		a.success()
	}
}

// watcher is a client-go informer with a connection of its own that keeps the history of each ConfigMap.
type watcher struct {
	pace
	// lost are the connections that broke; lists, how often everything was asked for anew.
	lost  atomic.Int64
	lists atomic.Int64

	mutex sync.Mutex
	seen  map[string][]int
}

// run watches until the context ends.
func (w *watcher) run(ctx context.Context, t *testing.T, client *kubernetes.Clientset, label string) {
	w.seen = map[string][]int{}
	configMaps := client.CoreV1().ConfigMaps(namespace)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = "suite=" + label
			w.lists.Add(1)
			return configMaps.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = "suite=" + label
			if options.SendInitialEvents != nil && *options.SendInitialEvents {
				w.lists.Add(1)
			}
			return configMaps.Watch(ctx, options)
		},
	}
	informer := cache.NewSharedIndexInformer(source, &v1.ConfigMap{}, 0, nil)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.record(t, object) },
		UpdateFunc: func(_, object any) { w.record(t, object) },
	}); err != nil {
		t.Error(err)
		return
	}
	informer.RunWithContext(ctx)
}

func (w *watcher) record(t *testing.T, object any) {
	configMap, ok := object.(*v1.ConfigMap)
	if !ok {
		t.Errorf("the watch brought a %T", object)
		return
	}
	number, err := strconv.Atoi(configMap.Data["number"])
	if err != nil {
		t.Errorf("ConfigMap %s has no number: %v", configMap.Name, err)
		return
	}
	w.mutex.Lock()
	w.seen[configMap.Name] = append(w.seen[configMap.Name], number)
	w.mutex.Unlock()
	w.success()
}

// has says whether the last number of each object has arrived.
func (w *watcher) has(written map[string][]int) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for name, numbers := range written {
		if seen := w.seen[name]; len(seen) == 0 || seen[len(seen)-1] != numbers[len(numbers)-1] {
			return false
		}
	}
	return true
}

// faults are the differences between the history and what was acknowledged: numbers out of order, and numbers missing.
func (w *watcher) faults(written map[string][]int) []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	var faults []string
	for name, numbers := range written {
		seen := w.seen[name]
		for i := 1; i < len(seen); i++ {
			if seen[i] <= seen[i-1] {
				faults = append(faults, fmt.Sprintf("%s went from %d back to %d", name, seen[i-1], seen[i]))
			}
		}
		// Only a second list may fold several writes to an object into one event: the server had forgotten the watch's place.
		if w.lists.Load() > 1 {
			continue
		}
		for _, number := range numbers {
			if !slices.Contains(seen, number) {
				faults = append(faults, fmt.Sprintf("write %d to %s was acknowledged, and the watch never saw it", number, name))
			}
		}
	}
	return faults
}

// The check that the others rely on can fail.
func TestAWatchThatLostOrReorderedAnEventIsFound(t *testing.T) {
	written := map[string][]int{"a": {0, 2, 4}, "b": {1, 3}}
	for what, history := range map[string]struct {
		seen   map[string][]int
		faults int
	}{
		"complete":  {map[string][]int{"a": {0, 2, 4}, "b": {1, 3}}, 0},
		"lost":      {map[string][]int{"a": {0, 4}, "b": {1, 3}}, 1},
		"reordered": {map[string][]int{"a": {0, 4, 2}, "b": {1, 3}}, 1},
		"silent":    {map[string][]int{"a": {0, 2, 4}}, 2},
	} {
		watcher := &watcher{seen: history.seen}
		if faults := watcher.faults(written); len(faults) != history.faults {
			t.Errorf("a history that is %s shows %d faults, want %d: %q", what, len(faults), history.faults, faults)
		}
	}
}
