package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Client keeps a connection alive and lets others publish over it.
type Client struct {
	cfg Config
	ep  endpoint
	own bool // Config.Token was given

	mu      sync.Mutex
	conn    *Conn
	changed chan struct{} // closed when conn is another one
	running bool
	ended   error
}

// New makes a client. Nothing happens before Run.
func New(cfg Config) (*Client, error) {
	own := cfg.Token != nil
	cfg, ep, err := cfg.prepared()
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, ep: ep, own: own, changed: make(chan struct{})}, nil
}

// Conn is the connection of now; nil between two. What is in force on it, such
// as rooms, ends with it.
func (c *Client) Conn() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

func (c *Client) set(conn *Conn) {
	c.mu.Lock()
	c.conn = conn
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

func (c *Client) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		return errors.New("client: Run was called twice")
	}
	c.running, c.ended = true, nil
	return nil
}

func (c *Client) end(err error) {
	c.mu.Lock()
	c.running, c.ended, c.conn = false, err, nil
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

// Publish sends a message until the server has accepted it, over as many
// connections as that takes, and returns its id. The server makes one message
// of the attempts. It ends with ctx, with the end of Run, or with a no that
// another attempt does not change: a [RefusedError], or that the message does
// not fit into a packet. The message may have been accepted also when ctx
// ended: with the same ClientID it can be sent again.
//
// A [Handler] must not wait for it: while the handler works, Run makes no new
// connection, and while it is told of one, that one is not used yet.
func (c *Client) Publish(ctx context.Context, m Outgoing) (id string, err error) {
	if m.ClientID == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		m.ClientID = hex.EncodeToString(b[:])
	}
	pause := pause{Backoff: c.cfg.Backoff}
	for {
		conn, err := c.await(ctx)
		if err != nil {
			return "", err
		}
		attempt, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
		id, err := conn.Publish(attempt, m)
		cancel()
		if err == nil {
			return id, nil
		}
		if refused, ok := errors.AsType[*RefusedError](err); ok && (refused.Code < 500 || refused.Code == 501) || errors.Is(err, ErrVersion) || errors.Is(err, errTooLarge) {
			return "", err
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("client: publish: %w", errors.Join(ctx.Err(), err))
		}
		timer := time.NewTimer(pause.next(0, 0))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// await waits for a connection.
func (c *Client) await(ctx context.Context) (*Conn, error) {
	for {
		c.mu.Lock()
		conn, changed, ended := c.conn, c.changed, c.ended
		c.mu.Unlock()
		switch {
		case ended != nil:
			return nil, fmt.Errorf("client: publish: Run has ended: %w", ended)
		case conn != nil && conn.ended() == nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("client: publish: no connection: %w", ctx.Err())
		}
	}
}
