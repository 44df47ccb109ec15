// Command web is what the tests deploy: an HTTP server that says where it runs, and writes a numbered line to its log ten times a
// second, so that a gap in `kubectl logs -f` can be seen.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// address is where it answers.
const address = ":8080"

// lineEvery is the pause between two lines of the log.
const lineEvery = 100 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	name, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(response http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(response, name) },
	)}
	go count(ctx)
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

// count writes the numbered lines.
func count(ctx context.Context) {
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	for number := 0; ; number++ {
		fmt.Printf("line %d\n", number)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
