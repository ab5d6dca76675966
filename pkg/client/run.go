package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Handler is what [Run] calls, one call at a time. Message is required.
type Handler struct {
	// Message gets every message. While it works, nothing else is received. Each
	// stored message comes once, in the order of its timeline.
	Message func(Message)
	// Connected is told of each new connection before its first message: the
	// place to join rooms again. An error ends Run, unless the connection has
	// ended meanwhile; close c to try again with another one.
	Connected func(ctx context.Context, c *Conn) error
	// Disconnected is told why a connection ended, or could not be made, and
	// when the next one is tried.
	Disconnected func(err error, retryIn time.Duration)
	// Skipped is told when stored messages are lost for this reader.
	Skipped func(Skip)
}

// Run is Client.Run of a client that nobody publishes with.
func Run(ctx context.Context, cfg Config, h Handler) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx, h)
}

// Run keeps a connection alive and hands its messages to h. It returns ctx's
// error when ctx ends, the error of h.Connected or of the cursor store, and the
// server's when that says not to come back: a [RefusedError] or [CloseError]
// without Reconnect, or [ErrVersion].
//
// Stored messages that come while there is no connection are fetched
// afterwards (version 2): of the inbox from where the user stands, on this
// device or else on any other, and from its begin for a user who never was
// here; of a room from there, too, and for who never was in it from when it is
// entered. What is not stored and is pushed between two connections is not
// received.
func (c *Client) Run(ctx context.Context, h Handler) (err error) {
	if h.Message == nil {
		return errors.New("client: Handler.Message is required")
	}
	if err := c.start(); err != nil {
		return err
	}
	defer func() { c.end(err) }()
	f := newFollower(c.cfg, h)
	pause := pause{Backoff: c.cfg.Backoff}
	for {
		lived, err := c.serve(ctx, f, h)
		c.set(nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if refused, ok := errors.AsType[*handlerError](err); ok {
			return refused.err
		}
		if stayAway(err) {
			return err
		}
		wait := pause.next(lived, retryAfter(err))
		if h.Disconnected != nil {
			h.Disconnected(err, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// handlerError is an error of this side on a living connection: it ends Run.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

// serve is one connection of Run, from dial to end.
func (c *Client) serve(ctx context.Context, f *follower, h Handler) (lived time.Duration, err error) {
	var resumed []resumeItem
	if c.cfg.Version >= wire.V2 && !c.own {
		if resumed, err = f.resume(ctx, c.cfg.Auth); err != nil {
			return 0, &handlerError{err}
		}
	}
	cfg, resumed, err := c.cfg.withSecret(ctx, c.own, resumed)
	if err != nil {
		return 0, err
	}
	conn, err := dial(ctx, cfg, c.ep, true)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // always nil
	since := time.Now()
	own := func(err error) (time.Duration, error) {
		if ended := conn.ended(); ended != nil {
			return time.Since(since), fmt.Errorf("client: %w", ended)
		}
		return time.Since(since), &handlerError{err}
	}
	if h.Connected != nil {
		if err := h.Connected(ctx, conn); err != nil {
			return own(err)
		}
	}
	c.set(conn)
	if err := f.begin(ctx, conn, resumed); err != nil {
		return own(err)
	}
	for {
		m, ok, _ := conn.queue.take()
		if !ok {
			f.flush() // nothing waits: time to acknowledge
			if m, err = conn.next(ctx); err != nil {
				return time.Since(since), err
			}
		}
		if err := f.message(ctx, conn.named(m)); err != nil {
			return time.Since(since), &handlerError{err}
		}
	}
}

// pause is the backoff between connections.
type pause struct {
	Backoff
	failures int // in a row
}

// next is the pause after a connection that lived for some time; one that
// lived longer than the longest pause was good. The server's wish is already
// spread over time, so it is the least.
func (p *pause) next(lived, wish time.Duration) time.Duration {
	if lived > p.Max {
		p.failures = 0
	}
	limit := p.Max
	if p.failures < 62 {
		if l := p.Min << p.failures; l>>p.failures == p.Min { // no overflow
			limit = min(l, p.Max)
		}
	}
	p.failures++
	return max(wish, rand.N(limit+1))
}
