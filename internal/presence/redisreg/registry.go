// Package redisreg keeps presence in Redis.
//
// # Keys
//
//	nodes            hash, field = node, value = <ends ms>|<updated ms>|<incarnation>|<run id of Redis>|<info JSON>
//	key:<key>        string <mid>@<run id of Redis>|<node>|<incarnation>|<session>, with a TTL
//	pres:{u:<mid>}   hash, field = <node>/<incarnation>/<session>, value = Unix ms when it ends; TTL of the youngest
//	rooms:<node>     string, see encodeRooms, with a TTL
//	broadcasts       sorted set of the ids of broadcasts by Unix ms when one was last heard of
//	broadcasts:canceled  sorted set of ids by Unix ms when it was canceled
//	broadcast:<id>   hash: speed, canceled = Unix ms, <node>/<incarnation> = see encodeShare; with a TTL
//
// All times are Redis's clock. A call does the same to many keys, in half to two
// thirds of the time of a call per key (benchmarks/results/presence-calls.txt).
// What it does to one key depends on no other, nor on whether another fails: for
// a Redis Cluster, which this package does not speak to, a batch would be sorted
// by slot and nothing else. Needed: Redis 6.2 or newer (SET with GET).
//
// # Guarantees
//
// Each call is one pipeline on one connection: the cost of a batch is one
// round trip. (Renew takes two more when a key names a foreign session, Rooms
// one more.) A call that returns an error may have done a part of its work;
// all of them may be repeated, but a repeated Connect does not name again the
// session that its first attempt replaced.
//
// What is served only after the caller's deadline does not name a session or
// renew a lease any more (see serverClock), once Redis's clock was read by
// Nodes or Rooms.
//
// A location that nobody removed ends with SessionTTL, or with its node's
// lease, whichever comes first.
//
// A key that Renew finds taken by a session of a dead node, or of an earlier
// life of a node, is taken back: that session is gone and nobody removes it. So
// is one that was named by an earlier process of Redis, which may have lost
// (a snapshot, a failover) that it had been named again since. Otherwise the
// last Connect stays between two sessions on live nodes.
//
// What is of another type under a name of ours is an error, except that Locate
// takes no notice of it at a key.
//
// Locate answers each target on its own: a session that is hit by a key and by
// a user of one query gives two locations, one per target. Nodes are read
// behind the targets, so a session that moves to a node that has just come up
// is not missed.
//
// # Concurrency
//
// A Registry is safe for concurrent use. It starts no goroutine that outlives
// a call.
package redisreg

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/redisconn"
)

//go:embed user_put.lua
var userPutSource string

//go:embed key_put.lua
var keyPutSource string

//go:embed key_renew.lua
var keyRenewSource string

//go:embed key_delete.lua
var keyDeleteSource string

//go:embed lease.lua
var leaseSource string

//go:embed lease_release.lua
var leaseReleaseSource string

// Registry is a presence.Registry on Redis.
type Registry struct {
	cfg   Config
	ttlMS int64
	pool  *redisconn.Pool

	clock  serverClock
	server atomic.Pointer[string] // see runID

	userPut, keyPut, keyRenew, keyDelete, lease, leaseRelease *redisconn.Script

	parsedMu sync.Mutex
	parsed   map[string]parsedNode // by name; see liveNodes
}

var _ presence.Registry = (*Registry)(nil)

// New makes a registry. It does not connect: see Ping.
func New(cfg Config) (*Registry, error) {
	if cfg.SessionTTL < time.Millisecond || cfg.BroadcastTTL < time.Millisecond || cfg.PoolSize < 1 || cfg.MaxBroadcasts < 1 {
		return nil, errors.New("redisreg: session_ttl, broadcast_ttl, pool_size and max_broadcasts must be positive")
	}
	return &Registry{
		cfg:   cfg,
		ttlMS: cfg.SessionTTL.Milliseconds(),
		pool: redisconn.NewPool(redisconn.Config{
			Addr: cfg.Addr, Username: cfg.Username, Password: cfg.Password, DB: cfg.DB,
			PoolSize: cfg.PoolSize, PoolIdle: cfg.PoolIdle,
			DialTimeout: cfg.DialTimeout, ReadTimeout: cfg.ReadTimeout, WriteTimeout: cfg.WriteTimeout,
		}),
		clock:        serverClock{born: time.Now()},
		userPut:      redisconn.NewScript(userPutSource),
		keyPut:       redisconn.NewScript(keyPutSource),
		keyRenew:     redisconn.NewScript(keyRenewSource),
		keyDelete:    redisconn.NewScript(keyDeleteSource),
		lease:        redisconn.NewScript(leaseSource),
		leaseRelease: redisconn.NewScript(leaseReleaseSource),
		parsed:       map[string]parsedNode{},
	}, nil
}

// Close closes the connections. Calls under way fail or end; later ones fail.
func (r *Registry) Close() error { return r.pool.Close() }

// Ping tells whether Redis answers.
func (r *Registry) Ping(ctx context.Context) error {
	if _, err := r.run(ctx, []redisconn.Command{{Name: "PING"}}); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// Connect records sessions; see presence.Registry.
func (r *Registry) Connect(ctx context.Context, node presence.Node, sessions []presence.Session) ([]uint64, error) {
	until := r.clock.deadline(ctx)
	users := r.putUsers(node, sessions, until)
	keys := calls{script: r.keyPut, common: []any{r.ttlMS, until}}
	run := r.runID()
	named := make([]int, 0, len(sessions)) // session of each key
	for i, s := range sessions {
		if s.Key != "" {
			keys.add(keyKey(s.Key), keyValue(node, s, run))
			named = append(named, i)
		}
	}
	before, err := r.runForValues(ctx, users, &keys)
	if err != nil {
		return nil, fmt.Errorf("connect %d sessions of %s: %w", len(sessions), node.Name, err)
	}
	replaced := make([]uint64, len(sessions))
	for n, i := range named {
		if at, ok := parseKeyValue(before[n]); ok && at.is(node) && at.session != sessions[i].ID {
			replaced[i] = at.session
		}
	}
	return replaced, nil
}

// Disconnect removes sessions; see presence.Registry.
func (r *Registry) Disconnect(ctx context.Context, node presence.Node, sessions []presence.Session) error {
	keys := calls{script: r.keyDelete}
	commands := make([]redisconn.Command, 0, len(sessions)+1)
	for _, s := range sessions {
		if s.Mid > 0 {
			commands = append(commands, redisconn.Command{Name: "HDEL", Args: []any{userKey(s.Mid), identity(node, s.ID, '/')}})
		}
		if s.Key != "" {
			keys.add(keyKey(s.Key), identity(node, s.ID, '|'))
		}
	}
	if _, err := r.runSome(ctx, keys.commands(commands)); err != nil {
		return fmt.Errorf("disconnect %d sessions of %s: %w", len(sessions), node.Name, err)
	}
	return nil
}

// Renew extends and restores sessions; see presence.Registry.
func (r *Registry) Renew(ctx context.Context, node presence.Node, sessions []presence.Session) error {
	if err := r.renew(ctx, node, sessions); err != nil {
		return fmt.Errorf("renew %d sessions of %s: %w", len(sessions), node.Name, err)
	}
	return nil
}

// foreignKey is a key that names another session than the renewed one.
type foreignKey struct {
	session presence.Session
	value   []byte
}

func (r *Registry) renew(ctx context.Context, node presence.Node, sessions []presence.Session) error {
	until := r.clock.deadline(ctx)
	users := r.putUsers(node, sessions, until)
	keys := r.renewKeys(until)
	run := r.runID()
	named := make([]presence.Session, 0, len(sessions)) // those with a key
	for _, s := range sessions {
		if s.Key != "" {
			keys.add(keyKey(s.Key), keyPrefix(s.Mid, run), identity(node, s.ID, '|'), nil)
			named = append(named, s)
		}
	}
	values, err := r.runForValues(ctx, users, keys)
	if err != nil {
		return err
	}
	var foreign []foreignKey
	for i, value := range values {
		if value != nil {
			foreign = append(foreign, foreignKey{named[i], value})
		}
	}
	if foreign == nil {
		return nil
	}
	return r.takeFromTheDead(ctx, node, foreign, until)
}

// takeFromTheDead gives keys to the renewed sessions where the session that
// holds the key is on no live node, or may be forgotten. The check and the change are two steps, so
// the change names the value that was checked: a Connect between them wins.
func (r *Registry) takeFromTheDead(ctx context.Context, node presence.Node, foreign []foreignKey, until string) error {
	live, err := r.readNodes(ctx)
	if err != nil {
		return err
	}
	index := byName(live)
	keys, current := r.renewKeys(until), r.runID()
	for _, f := range foreign {
		at, ok := parseKeyValue(f.value)
		if run := keyRun(f.value); ok && (run == "" || run == current) {
			if i, found := index[string(at.node)]; found && live[i].Incarnation == at.incarnation {
				continue
			}
		}
		keys.add(keyKey(f.session.Key), keyPrefix(f.session.Mid, current), identity(node, f.session.ID, '|'), f.value)
	}
	_, err = r.runSome(ctx, keys.commands(nil))
	return err
}

// putUsers records or renews the sessions that have a user.
func (r *Registry) putUsers(node presence.Node, sessions []presence.Session, until string) *calls {
	users := &calls{script: r.userPut, common: []any{r.ttlMS, until}}
	for _, s := range sessions {
		if s.Mid > 0 {
			users.add(userKey(s.Mid), identity(node, s.ID, '/'))
		}
	}
	return users
}

func (r *Registry) renewKeys(until string) *calls {
	return &calls{script: r.keyRenew, common: []any{r.ttlMS, until}}
}

// run is a pipeline; the first error reply is the error of the whole.
func (r *Registry) run(ctx context.Context, commands []redisconn.Command) ([]any, error) {
	replies, err := r.pool.RunAll(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", r.cfg.Addr, err)
	}
	return replies, nil
}

// runForValues makes the calls for users and for keys, and answers what those
// for keys do.
func (r *Registry) runForValues(ctx context.Context, users, keys *calls) ([][]byte, error) {
	commands := users.commands(nil)
	replies, err := r.runSome(ctx, keys.commands(commands))
	if err != nil {
		return nil, err
	}
	return keys.values(replies[len(commands):])
}

// runSome is run, where no commands need no round trip.
func (r *Registry) runSome(ctx context.Context, commands []redisconn.Command) ([]any, error) {
	if len(commands) == 0 {
		return nil, ctx.Err()
	}
	return r.run(ctx, commands)
}
