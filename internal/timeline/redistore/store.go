package redistore

import (
	"context"
	"crypto/rand"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

var (
	//go:embed preface.lua
	prefaceSource string
	//go:embed append.lua
	appendSource string
	//go:embed mark.lua
	markSource string
	//go:embed read.lua
	readSource string
	//go:embed tops.lua
	topsSource string
	//go:embed find.lua
	findSource string
	//go:embed revoke.lua
	revokeSource string
	//go:embed floor.lua
	floorSource string
	//go:embed advance.lua
	advanceSource string
	//go:embed incarnation.lua
	incarnationSource string
)

// Store is a timeline.Window on one Redis, or on a cluster.
type Store struct {
	cfg     Config
	pool    *redisconn.Pool
	cluster *cluster // nil = one Redis
	scripts scripts
	how     atomic.Pointer[string] // see howKnown
	// perScript is maxTogether but in measurements.
	perScript int
}

type scripts struct {
	append, mark, read, tops, find, revoke, floor, advance, incarnation *redisconn.Script
}

var _ timeline.Window = (*Store)(nil)

// New makes a store. It does not connect: see Ping.
func New(cfg Config) (*Store, error) {
	if problems := cfg.Problems(); problems != nil {
		return nil, errors.New("redistore: " + strings.Join(problems, "; "))
	}
	if cfg.Addr == "" {
		return nil, errors.New("redistore: no address")
	}
	with := func(source string) *redisconn.Script { return redisconn.NewScript(prefaceSource + "\n" + source) }
	s := &Store{
		cfg:       cfg,
		pool:      cfg.pool(cfg.Addr),
		perScript: maxTogether,
		scripts: scripts{
			append: with(appendSource), mark: with(markSource), read: with(readSource), tops: with(topsSource),
			find: with(findSource), revoke: with(revokeSource), floor: with(floorSource),
			advance: redisconn.NewScript(advanceSource), incarnation: with(incarnationSource),
		},
	}
	if cfg.Cluster {
		s.cluster = newCluster(cfg)
	}
	return s, nil
}

// run is a pipeline, on a cluster one for each master; the first error reply is
// the error of the whole.
func (s *Store) run(ctx context.Context, commands []redisconn.Command) ([]any, error) {
	if s.cluster != nil {
		return s.cluster.run(ctx, commands)
	}
	replies, err := s.pool.RunAll(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", s.cfg.Addr, err)
	}
	return replies, nil
}

// Close closes the connections. Calls under way fail or end; later ones fail.
func (s *Store) Close() error {
	err := s.pool.Close()
	if s.cluster != nil {
		err = errors.Join(err, s.cluster.close())
	}
	return err
}

// Ping tells whether Redis answers.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.run(ctx, []redisconn.Command{{Name: "PING"}}); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// What a script knows the incarnation by.
const (
	byInfo = "info"
	byKey  = "key"
)

var errOldRedis = errors.New("redistore: Redis 7.0 or newer is needed")

// marker is the marker key; a cluster has none.
func (s *Store) marker() string {
	if s.cluster != nil {
		return ""
	}
	return markerKey
}

// howKnown asks the server once. One that has a run id and does not take two
// sections is too old; one that has none keeps nothing over its own end.
func (s *Store) howKnown(ctx context.Context) (string, error) {
	if s.cluster != nil {
		return byInfo, nil
	}
	if how := s.how.Load(); how != nil {
		return *how, nil
	}
	how := byInfo
	replies, err := s.run(ctx, []redisconn.Command{{Name: "INFO", Args: []any{"server", "replication"}}})
	if e := redis.Error(""); errors.As(err, &e) {
		if replies, err = s.run(ctx, []redisconn.Command{{Name: "INFO"}}); err == nil {
			if text, _ := redis.String(replies[0], nil); strings.Contains(text, "run_id:") {
				return "", errOldRedis
			}
			how = byKey
		}
	} else if err == nil {
		if text, _ := redis.String(replies[0], nil); !strings.Contains(text, "run_id:") {
			how = byKey
		} else if !strings.Contains(text, "master_replid:") {
			return "", errOldRedis
		}
	}
	if err != nil {
		return "", fmt.Errorf("how the incarnation is known: %w", err)
	}
	s.how.Store(&how)
	return how, nil
}

// Incarnation is that of the server now; see timeline.Window.
func (s *Store) Incarnation(ctx context.Context) (timeline.Incarnation, error) {
	if s.cluster != nil {
		inc, err := s.cluster.incarnation(ctx, s.scripts.incarnation)
		if err != nil {
			return "", fmt.Errorf("incarnation: %w", err)
		}
		return inc, nil
	}
	how, err := s.howKnown(ctx)
	if err != nil {
		return "", err
	}
	replies, err := s.run(ctx, []redisconn.Command{{Script: s.scripts.incarnation, Args: []any{markerKey, how, rand.Text()}}})
	if err != nil {
		return "", fmt.Errorf("incarnation: %w", err)
	}
	inc, err := redis.String(replies[0], nil)
	if err != nil || inc == "" {
		return "", fmt.Errorf("incarnation: %q, %w", inc, errReply)
	}
	return timeline.Incarnation(inc), nil
}

var errReply = errors.New("an unexpected reply")
