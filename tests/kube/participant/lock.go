package main

import (
	"context"
	"errors"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// watchedLock is client-go's lock, with an eye on each request: only here its beginning and its success are known.
type watchedLock struct {
	resourcelock.Interface
	renewWithin time.Duration
	holder      *holder
	journal     *journal
	// seen is the holder in the last answer.
	seen string
}

// errNotOurs is what a release of another's Lease is answered with.
var errNotOurs = errors.New("the Lease has another holder: it is not ours to release")

func (l *watchedLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if err == nil {
		l.seen = record.HolderIdentity
	}
	return record, raw, err
}

func (l *watchedLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	begin := monotonic()
	err := l.Interface.Create(ctx, record)
	l.answered(begin, record, err)
	return err
}

// Update refuses to release what another holds. client-go itself would: after a lost deadline it reads the Lease anew, decides by
// what it had observed before, and then writes over whatever it has just read. Its next holder would be out without knowing it.
func (l *watchedLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" && l.seen != l.Identity() {
		l.journal.write(entry{Event: "guarded", Now: monotonic()})
		return errNotOurs
	}
	begin := monotonic()
	err := l.Interface.Update(ctx, record)
	l.answered(begin, record, err)
	return err
}

// answered takes a granted lease to the holder of the address.
func (l *watchedLock) answered(begin time.Duration, record resourcelock.LeaderElectionRecord, err error) {
	if err != nil {
		return
	}
	l.seen = record.HolderIdentity
	if record.HolderIdentity == l.Identity() {
		l.holder.grants <- grant{until: begin + l.renewWithin}
	}
}
