// Package redisconn talks to one Redis server for the adapters: a pool of
// connections, and commands and scripts in pipelines.
//
// # Ownership
//
// A Pool owns its connections and starts no goroutine. It is safe for
// concurrent use.
//
// # Guarantees
//
// Scripts that Redis does not know run again by source, which also loads them;
// a script may thus run after the commands behind it, so scripts of one call
// must be independent of their neighbours. A call that failed may have been
// done in part. An i/o timeout that came from the context's deadline is a
// context.DeadlineExceeded. After a failover behind one address (DNS, a virtual
// address) the first write that the old primary refuses ends the connections to
// it.
package redisconn

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

// How many commands, and how many keys of them, are written before answers are
// read: a server that answers while we still write must not fill both
// directions.
const (
	maxPipeline     = 512
	maxPipelineKeys = 4096
)

// idleTimeout is when an idle connection is closed; Redis's own default is never.
const idleTimeout = 5 * time.Minute

// Config says how to reach a server; the adapters check it.
type Config struct {
	Addr               string // host:port
	Username, Password string // empty: no AUTH
	DB                 int
	PoolSize           int // most connections; callers wait for one beyond it
	PoolIdle           int // most connections kept open without work

	DialTimeout, ReadTimeout, WriteTimeout time.Duration
}

// Script is a Lua source.
type Script struct {
	Source string
	sha    string
}

// NewScript makes a script.
func NewScript(source string) *Script {
	sum := sha1.Sum([]byte(source)) // what EVALSHA wants, not a secret
	return &Script{Source: source, sha: hex.EncodeToString(sum[:])}
}

// Command is one command of a pipeline: a script with its keys and arguments,
// or a plain one by name, whose keys are among its arguments.
type Command struct {
	Script *Script
	Name   string
	Keys   []string // of a plain one: to count them, and to find its server in a cluster
	Args   []any
}

func (c Command) send(conn redis.Conn, bySource bool) error {
	switch {
	case c.Script == nil:
		return conn.Send(c.Name, c.Args...)
	case bySource:
		return conn.Send("EVAL", c.scriptArgs(c.Script.Source)...)
	}
	return conn.Send("EVALSHA", c.scriptArgs(c.Script.sha)...)
}

func (c Command) scriptArgs(which string) []any {
	args := make([]any, 0, 2+len(c.Keys)+len(c.Args))
	args = append(args, which, len(c.Keys))
	for _, key := range c.Keys {
		args = append(args, key)
	}
	return append(args, c.Args...)
}

// Pool is the connections to one server.
type Pool struct {
	pool *redis.Pool
	// life counts how often the server turned out to be a replica: the address
	// means another one by now, and connections of an earlier life are not used
	// again.
	life atomic.Uint64
}

// Run sends commands in one pipeline (where they are many: several, one
// after the other) and returns their replies, redis.Error values among them.
func (p *Pool) Run(ctx context.Context, commands []Command) ([]any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	life := p.life.Load()
	conn, err := p.pool.GetContext(ctx)
	if err != nil {
		return nil, withDeadline(ctx, err)
	}
	replies, err := exchangeAll(ctx, conn, commands)
	if slices.ContainsFunc(replies, readOnly) {
		p.life.CompareAndSwap(life, life+1) // once for all that find out at the same time
	}
	// The error of Close is the one of the exchange again.
	_ = conn.Close()
	return replies, withDeadline(ctx, err)
}

// readOnly tells whether a reply says that the server is a replica, which Redis 6
// says in the middle of the error of a script.
func readOnly(reply any) bool {
	e, ok := reply.(redis.Error)
	return ok && (strings.HasPrefix(string(e), "READONLY ") || strings.Contains(string(e), "-READONLY "))
}

// RunAll is Run where an error reply is the error of the whole.
func (p *Pool) RunAll(ctx context.Context, commands []Command) ([]any, error) {
	replies, err := p.Run(ctx, commands)
	if err != nil {
		return nil, err
	}
	for _, reply := range replies {
		if e, ok := reply.(redis.Error); ok {
			return nil, e
		}
	}
	return replies, nil
}

// Close closes the connections. Calls under way fail or end; later ones fail.
func (p *Pool) Close() error { return p.pool.Close() }

// exchangeAll returns all replies, errors among them.
func exchangeAll(ctx context.Context, conn redis.Conn, commands []Command) ([]any, error) {
	n := pipeline(commands)
	if n == len(commands) {
		return exchangeAndReload(ctx, conn, commands)
	}
	replies := make([]any, 0, len(commands))
	for ; len(commands) > 0; n = pipeline(commands) {
		got, err := exchangeAndReload(ctx, conn, commands[:n])
		if err != nil {
			return nil, err
		}
		replies, commands = append(replies, got...), commands[n:]
	}
	return replies, nil
}

// pipeline is how many of the commands are written at once.
func pipeline(commands []Command) int {
	keys := 0
	for n := range commands {
		keys += len(commands[n].Keys)
		if n == maxPipeline || n > 0 && keys > maxPipelineKeys {
			return n
		}
	}
	return len(commands)
}

func exchangeAndReload(ctx context.Context, conn redis.Conn, commands []Command) ([]any, error) {
	replies, err := exchange(ctx, conn, commands, false)
	if err != nil {
		return nil, err
	}
	var unknown []int
	for i, reply := range replies {
		if e, ok := reply.(redis.Error); ok && strings.HasPrefix(string(e), "NOSCRIPT") {
			unknown = append(unknown, i)
		}
	}
	if unknown != nil {
		again := make([]Command, len(unknown))
		for i, at := range unknown {
			again[i] = commands[at]
		}
		got, err := exchange(ctx, conn, again, true)
		if err != nil {
			return nil, err
		}
		for i, at := range unknown {
			replies[at] = got[i]
		}
	}
	return replies, nil
}

// exchange writes commands and reads all replies, errors among them.
func exchange(ctx context.Context, conn redis.Conn, commands []Command, bySource bool) ([]any, error) {
	for _, c := range commands {
		if err := c.send(conn, bySource); err != nil {
			return nil, err
		}
	}
	// Do without a command flushes and reads everything that is pending, with
	// one deadline and one goroutine for the whole pipeline; ReceiveContext
	// would start one per reply.
	replies, err := redis.Values(redis.DoContext(conn, ctx, ""))
	if err != nil {
		return nil, err
	}
	if len(replies) != len(commands) {
		return nil, fmt.Errorf("%d replies to %d commands", len(replies), len(commands))
	}
	return replies, nil
}

// withDeadline makes an i/o timeout that came from the context's deadline
// recognizable: the deadline of the socket and the context race.
func withDeadline(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return fmt.Errorf("%w (%w)", context.DeadlineExceeded, err)
	}
	return err
}

// pooledConn remembers the socket for the check on borrow.
type pooledConn struct {
	redis.ConnWithContext
	socket net.Conn
	life   uint64 // of the pool, when it was dialed
}

// NewPool makes a pool. It does not connect.
func NewPool(cfg Config) *Pool {
	dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 30 * time.Second}
	p := &Pool{}
	p.pool = &redis.Pool{
		MaxActive:   cfg.PoolSize,
		MaxIdle:     cfg.PoolIdle,
		IdleTimeout: idleTimeout,
		Wait:        true,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			life := p.life.Load()
			var socket net.Conn
			conn, err := redis.DialContext(ctx, "tcp", cfg.Addr,
				redis.DialUsername(cfg.Username), redis.DialPassword(cfg.Password), redis.DialDatabase(cfg.DB),
				redis.DialReadTimeout(cfg.ReadTimeout), redis.DialWriteTimeout(cfg.WriteTimeout),
				redis.DialContextFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
					var err error
					socket, err = dialer.DialContext(ctx, network, addr)
					return socket, err
				}))
			if err != nil {
				return nil, err
			}
			withContext, ok := conn.(redis.ConnWithContext)
			if !ok {
				_ = conn.Close()
				return nil, errors.New("redigo: connection without context")
			}
			return &pooledConn{ConnWithContext: withContext, socket: socket, life: life}, nil
		},
		// After a restart of Redis every idle connection is dead. Asking the
		// kernel costs about a microsecond and spares the callers the errors.
		TestOnBorrow: func(conn redis.Conn, _ time.Time) error {
			pooled, ok := conn.(*pooledConn)
			switch {
			case !ok:
				return nil
			case pooled.life != p.life.Load():
				return errors.New("connection to a server that has become a replica")
			}
			return checkIdle(pooled.socket)
		},
	}
	return p
}
