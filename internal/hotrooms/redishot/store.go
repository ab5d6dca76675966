// Package redishot keeps hot rooms in Redis, or in a Redis Cluster: every
// script has one key.
//
//	spk:{<room>}   sorted set: mid by when it spoke
//	hot:rank       sorted set: room by the negative of its speakers
//	hot:due        sorted set: room by when it has to be counted again
//	hot:holder     string: somebody builds the ranking
//	hot:ranking    string: the ranking, JSON
//
// A room with a brace in its name has a hash of it as the tag and the name
// behind it. All of them expire. Time is that of Redis, so that the clocks of
// the logics do not matter.
//
// # Ownership
//
// A Store owns nothing; who runs its scripts owns the connections.
//
// # Guarantees
//
// A call that failed may have been done in part, and may be repeated.
package redishot

import (
	"context"
	_ "embed" // the scripts
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/hotrooms"
)

var (
	//go:embed recount.lua
	recountSource string
	//go:embed rank.lua
	rankSource string
	//go:embed plan.lua
	planSource string
	//go:embed due.lua
	dueSource string
)

const (
	highestSource = `return redis.call('ZRANGE', KEYS[1], 0, ARGV[1])`
	holdSource    = `if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then return 1 end return 0`
	putSource     = `redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 0`
	getSource     = `return redis.call('GET', KEYS[1])`
)

const (
	rankKey    = "hot:rank"
	dueKey     = "hot:due"
	holderKey  = "hot:holder"
	rankingKey = "hot:ranking"
)

// Runner runs a script once for each key, its only one; redistore.Store is it.
type Runner interface {
	EvalEach(ctx context.Context, source string, keys []string, args [][]any) (replies []any, err error)
}

// Store is a hotrooms.Store.
type Store struct{ run Runner }

var _ hotrooms.Store = (*Store)(nil)

var errReply = errors.New("a reply that cannot be")

// New makes a store.
func New(run Runner) *Store { return &Store{run: run} }

func speakersKey(room string) string {
	if !strings.ContainsAny(room, "{}") {
		return "spk:{" + room + "}"
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(room))
	return "spk:{" + strconv.FormatUint(h.Sum64(), 16) + "}:" + room
}

// one runs a script with one key.
func (s *Store) one(ctx context.Context, source, key string, args ...any) (any, error) {
	replies, err := s.run.EvalEach(ctx, source, []string{key}, [][]any{args})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return replies[0], nil
}

// Recount implements hotrooms.Store.
func (s *Store) Recount(ctx context.Context, rooms []hotrooms.Spoken, window time.Duration, most int) ([]hotrooms.Count, error) {
	keys, args := make([]string, len(rooms)), make([][]any, len(rooms))
	for i, room := range rooms {
		keys[i], args[i] = speakersKey(room.Room), []any{window.Milliseconds(), most}
		for _, sp := range room.Speakers {
			args[i] = append(args[i], sp.Mid, sp.Ago.Milliseconds())
		}
	}
	replies, err := s.run.EvalEach(ctx, recountSource, keys, args)
	if err != nil {
		return nil, fmt.Errorf("speakers: %w", err)
	}
	counts := make([]hotrooms.Count, len(rooms))
	for i, reply := range replies {
		n, err := redis.Int64s(reply, nil)
		if err != nil || len(n) != 2 {
			return nil, fmt.Errorf("speakers: %w", errReply)
		}
		counts[i] = hotrooms.Count{Speakers: int(n[0]), Next: time.Duration(n[1]) * time.Millisecond}
	}
	return counts, nil
}

// Rank implements hotrooms.Store. No room is in the ranking without being due,
// whatever call fails.
func (s *Store) Rank(ctx context.Context, rooms []hotrooms.Ranked, window time.Duration) error {
	ttl := 2 * window.Milliseconds()
	later, rank, quiet := []any{ttl}, []any{ttl}, []any{ttl}
	for _, room := range rooms {
		rank = append(rank, room.Name, room.Speakers)
		if room.Speakers > 0 {
			later = append(later, room.Name, max(room.Again.Milliseconds(), 1))
		}
	}
	if err := s.plan(ctx, later); err != nil {
		return err
	}
	reply, err := s.one(ctx, rankSource, rankKey, rank...)
	if err != nil {
		return err
	}
	was, err := redis.Ints(reply, nil)
	if err != nil || len(was) != len(rooms) {
		return fmt.Errorf("%s: %w", rankKey, errReply)
	}
	for i, room := range rooms {
		if room.Speakers == 0 {
			quiet = append(quiet, room.Name, int64(was[i])*max(room.Again.Milliseconds(), 1))
		}
	}
	return s.plan(ctx, quiet)
}

// plan says when rooms are due; the first argument is the ttl.
func (s *Store) plan(ctx context.Context, args []any) error {
	if len(args) == 1 {
		return nil
	}
	_, err := s.one(ctx, planSource, dueKey, args...)
	return err
}

// Due implements hotrooms.Store.
func (s *Store) Due(ctx context.Context, n int, pause time.Duration) ([]string, error) {
	reply, err := s.one(ctx, dueSource, dueKey, n, pause.Milliseconds())
	return names(reply, err)
}

// Highest implements hotrooms.Store.
func (s *Store) Highest(ctx context.Context, n int) ([]string, error) {
	reply, err := s.one(ctx, highestSource, rankKey, n-1)
	return names(reply, err)
}

func names(reply any, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	list, err := redis.Strings(reply, nil)
	if err != nil {
		return nil, errReply
	}
	return list, nil
}

// Hold implements hotrooms.Store.
func (s *Store) Hold(ctx context.Context, d time.Duration) (bool, error) {
	reply, err := s.one(ctx, holdSource, holderKey, max(d.Milliseconds(), 1))
	if err != nil {
		return false, err
	}
	return reply == int64(1), nil
}

// published is the JSON of a ranking.
type published struct {
	BuiltMS int64   `json:"built_ms"`
	Rooms   []place `json:"rooms"`
}

type place struct {
	Room     string `json:"room"`
	Speakers int    `json:"speakers"`
}

// Publish implements hotrooms.Store.
func (s *Store) Publish(ctx context.Context, r hotrooms.Ranking, d time.Duration) error {
	p := published{BuiltMS: r.BuiltMS}
	for _, room := range r.Rooms {
		p.Rooms = append(p.Rooms, place{room.Name, room.Speakers})
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("%s: %w", rankingKey, err)
	}
	_, err = s.one(ctx, putSource, rankingKey, text, max(d.Milliseconds(), 1))
	return err
}

// Published implements hotrooms.Store.
func (s *Store) Published(ctx context.Context) (hotrooms.Ranking, error) {
	reply, err := s.one(ctx, getSource, rankingKey)
	if err != nil || reply == nil {
		return hotrooms.Ranking{}, err
	}
	text, err := redis.Bytes(reply, nil)
	if err != nil {
		return hotrooms.Ranking{}, fmt.Errorf("%s: %w", rankingKey, errReply)
	}
	var p published
	if err := json.Unmarshal(text, &p); err != nil {
		return hotrooms.Ranking{}, fmt.Errorf("%s: %w", rankingKey, err)
	}
	r := hotrooms.Ranking{BuiltMS: p.BuiltMS}
	for _, at := range p.Rooms {
		r.Rooms = append(r.Rooms, hotrooms.Room{Name: at.Room, Speakers: at.Speakers})
	}
	return r, nil
}
