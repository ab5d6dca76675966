package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	gobwas "github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"

	"github.com/perseid-im/perseid/pkg/wire"
)

// framing is how packets stand on the connection.
type framing uint8

const (
	overTCP       framing = iota // back to back
	overWebSocket                // in binary messages
)

// Session is what the server said about an accepted connection. In version 1
// it says nothing: only Ver is set, and what the Config asked for.
type Session struct {
	ID        string
	Mid       int64
	Key       string
	Ver       int16
	Heartbeat time.Duration // silence after which the server closes the session; 0 = not told
	Node      string        // name of the comet
}

// Dial makes one connection and authenticates it. Errors that it wraps:
// [RefusedError] and [CloseError] from the server, [ErrVersion], and ctx's.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	own := cfg.Token != nil
	cfg, ep, err := cfg.prepared()
	if err != nil {
		return nil, err
	}
	if cfg, _, err = cfg.withSecret(ctx, own, nil); err != nil {
		return nil, err
	}
	return dial(ctx, cfg, ep, false)
}

// dial makes a connection; follow gets events among the messages.
func dial(ctx context.Context, cfg Config, ep endpoint, follow bool) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	l, err := ep.open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("client: dial: %w", err)
	}
	return openFor(ctx, cfg, ep.framing, l, follow)
}

// link is a connection whose WebSocket handshake, if any, is done.
type link struct {
	nc      net.Conn
	early   []byte // came behind the handshake
	deflate bool   // permessage-deflate was agreed on
}

// open authenticates a connection.
func open(ctx context.Context, cfg Config, f framing, l link) (*Conn, error) {
	return openFor(ctx, cfg, f, l, false)
}

func openFor(ctx context.Context, cfg Config, f framing, l link, follow bool) (*Conn, error) {
	c := newConn(cfg, f, l)
	c.follows = follow && cfg.Version >= wire.V2
	c.goroutines.Go(c.readLoop)
	if err := c.authenticate(ctx); err != nil {
		_ = c.Close() // tells nothing new
		return nil, err
	}
	c.goroutines.Go(c.heartbeatLoop)
	return c, nil
}

// open connects and does the WebSocket handshake.
func (ep endpoint) open(ctx context.Context, cfg Config) (l link, err error) {
	if ep.framing == overTCP {
		netDial := cfg.NetDial
		if netDial == nil {
			netDial = (&net.Dialer{}).DialContext
		}
		l.nc, err = netDial(ctx, ep.network, ep.target)
		return l, err
	}
	dialer := gobwas.Dialer{NetDial: cfg.NetDial, TLSConfig: cfg.TLS, Header: gobwas.HandshakeHeaderHTTP(cfg.Header)}
	if cfg.Compress {
		offer := wsflate.Parameters{ServerNoContextTakeover: true, ClientNoContextTakeover: true}
		dialer.Extensions = append(dialer.Extensions, offer.Option())
	}
	nc, buffered, answer, err := dialer.Dial(ctx, ep.target)
	if err != nil {
		return link{}, err
	}
	l = link{nc: nc}
	if buffered != nil {
		l.early = make([]byte, buffered.Buffered())
		_, err = buffered.Read(l.early) // takes all that is buffered, in one go
		gobwas.PutReader(buffered)
	}
	if err == nil {
		l.deflate, err = deflates(answer)
	}
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = nc.Close() // err says more
		return link{}, err
	}
	return l, nil
}

// deflates tells whether the server compresses. It must do so without context
// takeover, as it was asked to (RFC 7692, section 7.1.1.1).
func deflates(answer gobwas.Handshake) (bool, error) {
	if len(answer.Extensions) == 0 { // the dialer lets through what was offered
		return false, nil
	}
	var p wsflate.Parameters
	if err := p.Parse(answer.Extensions[0]); err != nil {
		return false, fmt.Errorf("permessage-deflate: %w", err)
	}
	if !p.ServerNoContextTakeover {
		return false, errors.New("permessage-deflate: the server wants to keep its context")
	}
	return true, nil
}

func (c *Conn) authenticate(ctx context.Context) error {
	body, err := c.call(ctx, wire.OpAuth, c.cfg.Token)
	if err != nil {
		return fmt.Errorf("client: auth: %w", err)
	}
	c.session = Session{Ver: wire.V1, Mid: c.cfg.Auth.Mid, Key: c.cfg.Auth.Key}
	interval := DefaultHeartbeatV1
	if c.cfg.Version >= wire.V2 {
		if interval, err = c.accepted(body); err != nil {
			return err
		}
	}
	if c.cfg.Heartbeat > 0 {
		interval = c.cfg.Heartbeat
	}
	c.interval.Store(int64(interval))
	// The reader waits without a deadline until here. If the connection has
	// ended meanwhile, Recv tells, after what was pushed until then.
	_ = c.nc.SetReadDeadline(time.Now().Add(c.silence()))
	return nil
}

// accepted reads the auth reply of version 2 and returns the interval of
// heartbeats that follows from it.
func (c *Conn) accepted(body []byte) (time.Duration, error) {
	if len(body) == 0 {
		return 0, fmt.Errorf("client: %w: the server gives goim's empty auth reply", ErrVersion)
	}
	var reply struct {
		refusalBody
		Session   string `json:"session"`
		Mid       int64  `json:"mid"`
		Key       string `json:"key"`
		Ver       int16  `json:"ver"`
		Heartbeat int64  `json:"heartbeat"` // seconds
		Node      string `json:"node"`
		Tops      []top  `json:"tops"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return 0, fmt.Errorf("client: auth reply: %w", err)
	}
	if err := reply.refused(wire.OpAuth); err != nil {
		return 0, fmt.Errorf("client: %w", err)
	}
	if reply.Ver != wire.V2 {
		return 0, fmt.Errorf("client: %w: the server answers with version %d", ErrVersion, reply.Ver)
	}
	silence := time.Duration(min(max(reply.Heartbeat, 0), int64(maxSilence/time.Second))) * time.Second
	c.session = Session{
		ID: reply.Session, Mid: reply.Mid, Key: reply.Key, Ver: reply.Ver, Heartbeat: silence, Node: reply.Node,
	}
	c.tops = reply.Tops
	if silence == 0 {
		return DefaultHeartbeatV1, nil
	}
	return max(silence/3, minHeartbeat), nil
}
