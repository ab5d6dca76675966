package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Defaults of a [Config].
const (
	DefaultDialTimeout    = 10 * time.Second
	DefaultHeartbeatV1    = 4 * time.Minute // goim's
	DefaultMaxPacketBytes = 16 << 20
	DefaultQueueBytes     = 1 << 20
	DefaultBackoffMin     = 500 * time.Millisecond
	DefaultBackoffMax     = 30 * time.Second
)

// Config says where to connect and as whom. Address is required; the zero
// value of every other field means its default.
type Config struct {
	// Address is tcp://host:port, ws://host:port/sub or wss://host:port/sub.
	// A WebSocket address without a path gets /sub.
	Address string
	// Version of the protocol, wire.V1 or wire.V2. Default: wire.V2.
	Version int16
	// Auth says who connects, in goim's JSON. Token, if not nil, is sent
	// instead, as it is.
	Auth  Auth
	Token []byte

	// TokenSource is asked before each connection for the secret that goes into
	// the auth packet as "token"; what checks it is up to the server. An error is
	// a connection that failed. Not together with Token.
	TokenSource func(ctx context.Context) (string, error)

	// Cursors keeps how far stored messages were handled (version 2). Default:
	// MemoryCursors.
	Cursors CursorStore
	// NoAck keeps Run from telling the server how far it is; Conn.Ack does it.
	NoAck bool

	// Header is added to the WebSocket handshake, such as a Cookie.
	Header http.Header
	// Compress offers permessage-deflate on WebSocket; the server decides. Once
	// a compressed message has come, the connection holds some 40 KiB for it.
	Compress bool
	// TLS is for wss addresses.
	TLS *tls.Config
	// NetDial replaces the dialer of net.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)

	// DialTimeout bounds everything from the connect to the auth reply.
	DialTimeout time.Duration
	// Heartbeat is the interval of heartbeats. Default: a third of what the
	// server tells in version 2, 4 minutes in version 1, where the server
	// tells nothing.
	Heartbeat time.Duration

	// MaxPacketBytes bounds a packet of the server, and a WebSocket message.
	MaxPacketBytes int
	// QueueBytes bounds the messages that wait to be received; when it is
	// reached, the connection is not read on. It may be exceeded by one packet,
	// and while a call such as Join waits for its reply, which stands in the
	// stream behind the pushes, by MaxPacketBytes more.
	QueueBytes int

	// Backoff is the pause of Run between two connections.
	Backoff Backoff
}

// Auth is goim's auth packet.
type Auth struct {
	Mid      int64     // user; 0 = none
	Key      string    // name of this connection; empty = the server makes one
	Room     string    // first room, type://id; empty = none
	Platform string    // such as web or ios
	Accepts  []wire.Op // operations to receive by key, mid and broadcast
}

// Backoff is exponential with full jitter: before attempt n, the pause is a
// random time up to Min*2^n, at most Max, but never shorter than the server
// asked for.
type Backoff struct {
	Min, Max time.Duration
}

// endpoint is an address that was understood.
type endpoint struct {
	framing framing
	network string // of tcp addresses
	target  string // host:port, or the whole URL
}

// prepared fills in the defaults and checks everything.
func (c Config) prepared() (Config, endpoint, error) {
	orDefault(&c.Version, wire.V2)
	orDefault(&c.DialTimeout, DefaultDialTimeout)
	orDefault(&c.MaxPacketBytes, DefaultMaxPacketBytes)
	orDefault(&c.QueueBytes, DefaultQueueBytes)
	orDefault(&c.Backoff.Min, DefaultBackoffMin)
	orDefault(&c.Backoff.Max, max(DefaultBackoffMax, c.Backoff.Min))

	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	ep, err := parseAddress(c.Address)
	if err != nil {
		problems = append(problems, err)
	}
	check(c.Version == wire.V1 || c.Version == wire.V2, "Version = %d: allowed is 1 or 2", c.Version)
	check(c.DialTimeout > 0, "DialTimeout = %s: allowed is more than 0", c.DialTimeout)
	check(c.Heartbeat == 0 || c.Heartbeat >= minHeartbeat, "Heartbeat = %s: allowed is %s or more", c.Heartbeat, minHeartbeat)
	check(c.MaxPacketBytes >= minPacketLimit, "MaxPacketBytes = %d: allowed is %d or more", c.MaxPacketBytes, minPacketLimit)
	check(c.QueueBytes > 0, "QueueBytes = %d: allowed is more than 0", c.QueueBytes)
	check(c.Backoff.Min > 0 && c.Backoff.Min <= c.Backoff.Max,
		"Backoff = %s to %s: allowed is more than 0, Min not above Max", c.Backoff.Min, c.Backoff.Max)
	check(c.TokenSource == nil || c.Token == nil, "TokenSource and Token: allowed is one of them")
	if c.Token == nil {
		if c.Token, err = c.Auth.token("", nil); err != nil {
			problems = append(problems, err)
		}
	}
	check(len(c.Token) <= wire.MaxBodyV1, "the token has %d bytes: allowed is %d", len(c.Token), wire.MaxBodyV1)
	if err := errors.Join(problems...); err != nil {
		return c, ep, fmt.Errorf("client: config: %w", err)
	}
	return c, ep, nil
}

func orDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

func parseAddress(address string) (endpoint, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return endpoint{}, fmt.Errorf("address %q: allowed is tcp://host:port, ws://host:port/sub or wss://host:port/sub", address)
	}
	switch u.Scheme {
	case "tcp":
		if u.Port() == "" || u.Path != "" && u.Path != "/" {
			return endpoint{}, fmt.Errorf("address %q: allowed is tcp://host:port", address)
		}
		return endpoint{framing: overTCP, network: "tcp", target: u.Host}, nil
	case "ws", "wss":
		if u.Path == "" {
			u.Path = "/sub"
		}
		return endpoint{framing: overWebSocket, target: u.String()}, nil
	}
	return endpoint{}, fmt.Errorf("address %q: the scheme must be tcp, ws or wss", address)
}

// resumeItem is a cursor as the auth packet and Sync have it.
type resumeItem struct {
	Timeline string `json:"tl"`
	Epoch    uint32 `json:"epoch"`
	After    uint64 `json:"after"`
}

// withSecret makes the auth packet of one connection: the token is fetched, and
// what can be resumed is added if there is room; resumed is what was.
func (c Config) withSecret(ctx context.Context, own bool, resume []resumeItem) (_ Config, resumed []resumeItem, err error) {
	if own {
		return c, nil, nil
	}
	secret := ""
	if c.TokenSource != nil {
		if secret, err = c.TokenSource(ctx); err != nil {
			return c, nil, fmt.Errorf("client: token: %w", err)
		}
	}
	token, err := c.Auth.token(secret, resume)
	if err == nil && len(token) > wire.MaxBodyV1 {
		resume = nil
		token, err = c.Auth.token(secret, nil)
	}
	if err != nil {
		return c, nil, fmt.Errorf("client: %w", err)
	}
	if len(token) > wire.MaxBodyV1 {
		return c, nil, fmt.Errorf("client: the token has %d bytes: allowed is %d", len(token), wire.MaxBodyV1)
	}
	c.Token = token
	return c, resume, nil
}

// token is goim's auth JSON.
func (a Auth) token(secret string, resume []resumeItem) ([]byte, error) {
	body, err := json.Marshal(struct {
		Mid      int64        `json:"mid"`
		Key      string       `json:"key,omitempty"`
		Room     string       `json:"room_id"`
		Platform string       `json:"platform,omitempty"`
		Accepts  []wire.Op    `json:"accepts"`
		Token    string       `json:"token,omitempty"`
		Resume   []resumeItem `json:"resume,omitempty"`
	}{a.Mid, a.Key, a.Room, a.Platform, append([]wire.Op{}, a.Accepts...), secret, resume})
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return body, nil
}
