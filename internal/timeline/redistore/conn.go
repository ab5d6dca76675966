package redistore

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// maxPipeline bounds how many commands are written before answers are read:
// a server that answers while we still write must not fill both directions.
const maxPipeline = 512

// idleTimeout is when an idle connection is closed; Redis's own default is never.
const idleTimeout = 5 * time.Minute

// script is a Lua source.
type script struct {
	source string
	sha    string
}

func newScript(source string) *script {
	sum := sha1.Sum([]byte(source)) // what EVALSHA wants, not a secret
	return &script{source: source, sha: hex.EncodeToString(sum[:])}
}

// command is one command of a pipeline: a script with its keys, or a plain one
// by name.
type command struct {
	script *script
	name   string
	keys   []string
	args   []any
}

func (c command) send(conn redis.Conn, bySource bool) error {
	switch {
	case c.script == nil:
		return conn.Send(c.name, c.args...)
	case bySource:
		return conn.Send("EVAL", c.scriptArgs(c.script.source)...)
	}
	return conn.Send("EVALSHA", c.scriptArgs(c.script.sha)...)
}

func (c command) scriptArgs(which string) []any {
	args := make([]any, 0, 2+len(c.keys)+len(c.args))
	args = append(args, which, len(c.keys))
	for _, key := range c.keys {
		args = append(args, key)
	}
	return append(args, c.args...)
}

// run sends commands in one pipeline (more than maxPipeline: several, one
// after the other; on a cluster one for each master) and returns their replies.
// Scripts that Redis does not know run again by source, which also loads them;
// a script may thus run after the commands behind it, so every script here is
// independent of its neighbours. The first error reply is the error of the
// whole.
func (s *Store) run(ctx context.Context, commands []command) ([]any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.cluster != nil {
		return s.cluster.run(ctx, commands)
	}
	conn, err := s.pool.GetContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", s.cfg.Addr, withDeadline(ctx, err))
	}
	replies, err := exchangeAll(ctx, conn, commands)
	// The error of Close is the one of the exchange again.
	_ = conn.Close()
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", s.cfg.Addr, withDeadline(ctx, err))
	}
	for _, reply := range replies {
		if e, ok := reply.(redis.Error); ok {
			return nil, fmt.Errorf("redis %s: %w", s.cfg.Addr, e)
		}
	}
	return replies, nil
}

// exchangeAll returns all replies, errors among them.
func exchangeAll(ctx context.Context, conn redis.Conn, commands []command) ([]any, error) {
	if len(commands) <= maxPipeline {
		return exchangeAndReload(ctx, conn, commands)
	}
	replies := make([]any, 0, len(commands))
	for chunk := range slices.Chunk(commands, maxPipeline) {
		got, err := exchangeAndReload(ctx, conn, chunk)
		if err != nil {
			return nil, err
		}
		replies = append(replies, got...)
	}
	return replies, nil
}

func exchangeAndReload(ctx context.Context, conn redis.Conn, commands []command) ([]any, error) {
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
		again := make([]command, len(unknown))
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
func exchange(ctx context.Context, conn redis.Conn, commands []command, bySource bool) ([]any, error) {
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
}

func newPool(cfg Config) *redis.Pool {
	dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 30 * time.Second}
	return &redis.Pool{
		MaxActive:   cfg.PoolSize,
		MaxIdle:     cfg.PoolIdle,
		IdleTimeout: idleTimeout,
		Wait:        true,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
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
			return &pooledConn{ConnWithContext: withContext, socket: socket}, nil
		},
		// After a restart of Redis every idle connection is dead. Asking the
		// kernel costs about a microsecond and spares the callers the errors.
		TestOnBorrow: func(conn redis.Conn, _ time.Time) error {
			if pooled, ok := conn.(*pooledConn); ok {
				return checkIdle(pooled.socket)
			}
			return nil
		},
	}
}
