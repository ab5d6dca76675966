package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// The clock of the keys: a tick takes the lock of the whole server and looks
// at every key (100,000 keys: about 0.1 s), so it comes less often the longer
// it takes, and costs at most a twentieth of the time up to maxTick.
const (
	minTick    = time.Second
	maxTick    = 10 * time.Second
	tickFactor = 20
)

// Redis is an embedded Redis. It keeps nothing over Close.
type Redis struct {
	server *miniredis.Miniredis
	addr   string

	stopOnce sync.Once
	stop     chan struct{}
	closed   chan struct{}
}

// StartRedis starts to serve on addr, host:port; port 0 = any free one.
func StartRedis(addr string) (*Redis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("embedded redis on %s: %w", addr, err)
	}
	r := &Redis{server: server, addr: server.Addr(), stop: make(chan struct{}), closed: make(chan struct{})}
	go r.run()
	return r, nil
}

// Addr is the address that it serves on.
func (r *Redis) Addr() string { return r.addr }

// run lets keys expire, which miniredis does not by itself, and closes the
// server at stop.
func (r *Redis) run() {
	defer close(r.closed)
	defer r.server.Close()
	last := time.Now()
	timer := time.NewTimer(minTick)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-timer.C:
		}
		now := time.Now() // monotonic: a change of the wall clock expires nothing
		r.server.FastForward(now.Sub(last))
		last = now
		timer.Reset(tickAfter(time.Since(now)))
	}
}

// tickAfter is the pause after a tick that took cost.
func tickAfter(cost time.Duration) time.Duration {
	return min(max(minTick, tickFactor*cost), maxTick)
}

// Close ends the server; connected clients lose their connections. If the
// context ends first it goes on in the background.
func (r *Redis) Close(ctx context.Context) error {
	r.askToStop()
	select {
	case <-r.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close embedded redis: %w", ctx.Err())
	}
}

func (r *Redis) askToStop() { r.stopOnce.Do(func() { close(r.stop) }) }

// shutDown is Close without a limit.
func (r *Redis) shutDown() {
	r.askToStop()
	<-r.closed
}
