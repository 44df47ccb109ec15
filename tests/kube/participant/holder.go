package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the time of CLOCK_MONOTONIC, which all processes of a machine share.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // the kernel has had this clock for ever
	}
	return time.Duration(now.Nano())
}

// grant is a lease that was granted.
type grant struct{ until time.Duration }

// holder has the address on the interface while a grant lasts. One goroutine owns it.
type holder struct {
	network   string
	addresses []string
	journal   *journal
	grants    chan grant
	stop      chan chan struct{}
}

// run follows the grants until the end; after it, grants are taken and mean nothing.
func (h *holder) run() {
	held, ended := false, false
	deadline := time.NewTimer(0)
	<-deadline.C
	for {
		select {
		case grant := <-h.grants:
			now := monotonic()
			if ended || grant.until <= now {
				continue // it came too late
			}
			h.journal.write(entry{Event: "leads", From: now, Until: grant.until})
			if !held {
				held = true
				h.add()
			}
			deadline.Reset(grant.until - monotonic())
		case <-deadline.C:
			if held {
				held = false
				h.takeOff()
			}
		case done := <-h.stop:
			ended = true
			if held {
				held = false
				h.takeOff()
			}
			close(done)
		}
	}
}

// end takes the address off, and returns when it is.
func (h *holder) end() {
	done := make(chan struct{})
	h.stop <- done
	<-done
}

func (h *holder) add() {
	for _, address := range h.addresses {
		arguments := []string{"address", "replace", address, "dev", h.network}
		if strings.Contains(address, ":") {
			arguments = append(arguments, "nodad")
		}
		if output, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
			log.Printf("failed to add %s: %v: %s", address, err, output)
		}
	}
}

func (h *holder) takeOff() {
	if err := h.remove(); err != nil {
		// An address that stays would look like a second holder's, and it would be one.
		log.Fatal(err)
	}
	h.journal.write(entry{Event: "ends", Now: monotonic()})
}

// remove takes the addresses off, those that are there.
func (h *holder) remove() error {
	for _, address := range h.addresses {
		output, err := exec.Command("ip", "address", "delete", address, "dev", h.network).CombinedOutput()
		// What `ip` says of an address that isn't there, of IPv4 and of IPv6, in old versions and in new ones.
		said := strings.ToLower(string(output))
		gone := strings.Contains(said, "cannot assign requested address") || strings.Contains(said, "address not found")
		if err != nil && !gone {
			return fmt.Errorf("failed to remove %s: %w: %s", address, err, output)
		}
	}
	return nil
}

// entry is a line of the journal.
type entry struct {
	Event string        `json:"event"`
	From  time.Duration `json:"from_ns,omitempty"`
	Until time.Duration `json:"until_ns,omitempty"`
	Now   time.Duration `json:"ns,omitempty"`
}

// journal is a file that lines are appended to, each by one write, so that a reader never sees half of one.
type journal struct{ file *os.File }

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &journal{file}, err
}

func (j *journal) write(entry entry) {
	line, err := json.Marshal(entry)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err != nil {
		log.Fatalf("the journal can't be written: %v", err)
	}
}

func (j *journal) close() { _ = j.file.Close() }
