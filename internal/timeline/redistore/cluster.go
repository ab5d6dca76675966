package redistore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

// cluster routes commands to the masters of a Redis Cluster.
type cluster struct {
	cfg Config

	mu     sync.Mutex
	slots  slotMap // nil = not read, or known to be wrong
	pools  map[string]*redisconn.Pool
	closed bool
}

func newCluster(cfg Config) *cluster {
	return &cluster{cfg: cfg, pools: map[string]*redisconn.Pool{}}
}

func (c *cluster) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var err error
	for _, pool := range c.pools {
		err = errors.Join(err, pool.Close())
	}
	return err
}

func (c *cluster) pool(addr string) (*redisconn.Pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("closed")
	}
	if c.pools[addr] == nil {
		c.pools[addr] = c.cfg.pool(addr)
	}
	return c.pools[addr], nil
}

// forget makes the next call read the slots again.
func (c *cluster) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots = nil
}

// mapNow is the last map that was not found wrong; else it is read from the
// first node that answers.
func (c *cluster) mapNow(ctx context.Context, fresh bool) (slotMap, error) {
	c.mu.Lock()
	known, nodes := c.slots, []string{c.cfg.Addr}
	for addr := range c.pools {
		if addr != c.cfg.Addr {
			nodes = append(nodes, addr)
		}
	}
	c.mu.Unlock()
	if known != nil && !fresh {
		return known, nil
	}
	var failed error
	for _, addr := range nodes {
		replies, err := c.ask(ctx, addr, []redisconn.Command{{Name: "CLUSTER", Args: []any{"SLOTS"}}})
		if err == nil {
			var m slotMap
			if m, err = parseSlots(addr, replies[0]); err == nil {
				c.mu.Lock()
				c.slots = m
				c.mu.Unlock()
				return m, nil
			}
		}
		failed = errors.Join(failed, fmt.Errorf("redis %s: %w", addr, err))
	}
	return nil, fmt.Errorf("slots of the cluster: %w", failed)
}

// ask sends commands to one node and returns all replies, errors among them.
func (c *cluster) ask(ctx context.Context, addr string, commands []redisconn.Command) ([]any, error) {
	pool, err := c.pool(addr)
	if err != nil {
		return nil, err
	}
	return pool.Run(ctx, commands)
}

// Slots move, and masters change: what was sent to the wrong one is sent again.
const (
	routeTries = 8
	routePause = 50 * time.Millisecond
)

// run sends each command to the master of its first key; those without keys
// go to any. Replies are parallel to commands.
func (c *cluster) run(ctx context.Context, commands []redisconn.Command) ([]any, error) {
	replies := make([]any, len(commands))
	left := make([]int, len(commands))
	for i := range left {
		left[i] = i
	}
	var last error
	for try := range routeTries {
		if try > 0 {
			if err := pause(ctx, routePause); err != nil {
				return nil, errors.Join(err, last)
			}
		}
		m, err := c.mapNow(ctx, false)
		if err != nil {
			return nil, err
		}
		if left, last, err = c.runOnce(ctx, m, commands, replies, left); err != nil {
			c.forget()
			return nil, err
		}
		if len(left) == 0 {
			return replies, nil
		}
		c.forget()
	}
	return nil, last
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// runOnce returns the commands that were sent to a node that does not have
// their slot, and what it said.
func (c *cluster) runOnce(ctx context.Context, m slotMap, commands []redisconn.Command, replies []any, left []int) (again []int, why, err error) {
	byNode := map[string][]int{}
	for _, i := range left {
		addr := m[0].addr
		if keys := commands[i].Keys; len(keys) > 0 {
			addr = m.owner(slotOf(keys[0]))
		}
		if addr == "" {
			return nil, nil, fmt.Errorf("nobody has slot %d", slotOf(commands[i].Keys[0]))
		}
		byNode[addr] = append(byNode[addr], i)
	}
	type answer struct {
		addr    string
		replies []any
		err     error
	}
	answers := make(chan answer, len(byNode))
	for addr, list := range byNode {
		part := make([]redisconn.Command, len(list))
		for k, i := range list {
			part[k] = commands[i]
		}
		go func() {
			got, err := c.ask(ctx, addr, part)
			answers <- answer{addr, got, err}
		}()
	}
	for range byNode { // all of them: nothing outlives the call
		a := <-answers
		if a.err != nil {
			err = errors.Join(err, fmt.Errorf("redis %s: %w", a.addr, a.err))
			continue
		}
		for k, i := range byNode[a.addr] {
			e, failed := a.replies[k].(redis.Error)
			switch {
			case !failed:
				replies[i] = a.replies[k]
			case elsewhere(e):
				again, why = append(again, i), fmt.Errorf("redis %s: %w", a.addr, e)
			default:
				err = errors.Join(err, fmt.Errorf("redis %s: %w", a.addr, e))
			}
		}
	}
	slices.Sort(again)
	return again, why, err
}

// elsewhere: the command was not run, and another node or moment may do it.
func elsewhere(e redis.Error) bool {
	word, _, _ := strings.Cut(string(e), " ")
	return word == "MOVED" || word == "ASK" || word == "TRYAGAIN" || word == "CLUSTERDOWN"
}

// incarnation asks every master that has slots.
func (c *cluster) incarnation(ctx context.Context, sc *redisconn.Script) (timeline.Incarnation, error) {
	m, err := c.mapNow(ctx, true)
	if err != nil {
		return "", err
	}
	tokens := map[string]string{}
	for _, addr := range m.masters() {
		replies, err := c.ask(ctx, addr, []redisconn.Command{{Script: sc, Args: []any{"", byInfo}}})
		if err != nil {
			return "", fmt.Errorf("redis %s: %w", addr, err)
		}
		token, err := redis.String(replies[0], nil)
		if err != nil || token == "" {
			return "", fmt.Errorf("redis %s: %q, %w", addr, token, errors.Join(errReply, err))
		}
		tokens[addr] = token
	}
	s := make(snapshot, len(m))
	for i, r := range m {
		s[i] = snapshotRange{r.first, r.last, tokens[r.addr]}
	}
	return timeline.Incarnation(s.String()), nil
}
