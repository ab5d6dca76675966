package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Handler is what [Run] calls, one call at a time. Message is required.
type Handler struct {
	// Message gets every message. While it works, nothing else is received.
	Message func(Message)
	// Connected is told of each new connection before its first message: the
	// place to join rooms again. An error ends Run, unless the connection has
	// ended meanwhile; close c to try again with another one.
	Connected func(ctx context.Context, c *Conn) error
	// Disconnected is told why a connection ended, or could not be made, and
	// when the next one is tried.
	Disconnected func(err error, retryIn time.Duration)
}

// Run keeps a connection alive and hands its messages to h. It returns ctx's
// error when ctx ends, the error of h.Connected, and the server's when that
// says not to come back: a [RefusedError] or [CloseError] without Reconnect,
// or [ErrVersion].
//
// What is pushed between two connections is not received.
func Run(ctx context.Context, cfg Config, h Handler) error {
	cfg, ep, err := cfg.prepared()
	if err != nil {
		return err
	}
	if h.Message == nil {
		return errors.New("client: Handler.Message is required")
	}
	pause := pause{Backoff: cfg.Backoff}
	for {
		lived, err := serve(ctx, cfg, ep, h)
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

// handlerError is an error of Handler.Connected on a living connection.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

// serve is one connection of Run, from dial to end.
func serve(ctx context.Context, cfg Config, ep endpoint, h Handler) (lived time.Duration, err error) {
	c, err := dial(ctx, cfg, ep)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // always nil
	since := time.Now()
	if h.Connected != nil {
		if err := h.Connected(ctx, c); err != nil {
			if ended := c.ended(); ended != nil {
				return time.Since(since), fmt.Errorf("client: %w", ended)
			}
			return time.Since(since), &handlerError{err}
		}
	}
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			return time.Since(since), err
		}
		h.Message(m)
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
