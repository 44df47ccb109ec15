package main

import (
	"maps"
	"sync"
	"time"

	"vipd/tests/kube/watch"
)

// stream notes the signs of life of one way of looking.
type stream struct {
	mutex    sync.Mutex
	last     time.Time
	silent   time.Duration
	failures map[string]int
}

func newStream() *stream { return &stream{last: time.Now(), failures: map[string]int{}} }

// alive notes a sign of life.
func (s *stream) alive() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	now := time.Now()
	s.silent = max(s.silent, now.Sub(s.last))
	s.last = now
}

// failed counts a failure.
func (s *stream) failed(reason string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failures[reason]++
}

// aliveSince says whether there was a sign of life after a time.
func (s *stream) aliveSince(when time.Time) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.last.After(when)
}

// take returns what happened since the last call. A silence that has not ended counts, too.
func (s *stream) take() watch.Stream {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	silent := max(s.silent, time.Since(s.last))
	taken := watch.Stream{Silent: float64(silent.Microseconds()) / 1000, Failures: maps.Clone(s.failures)}
	s.silent = 0
	clear(s.failures)
	return taken
}
