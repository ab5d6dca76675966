package redisreg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/testdeps"
)

const long = 20 * time.Minute

// The readers of connections that were given up must end, too.
func TestMain(m *testing.M) { leakcheck.Main(m) }

func node(name string) presence.Node { return presence.Node{Name: name, Incarnation: 7} }

// everyServer runs a test on miniredis and on a real Redis.
func everyServer(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("miniredis", func(t *testing.T) { test(t, miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) { test(t, testdeps.Redis(t).Addr) })
}

// useAll calls everything that runs a script, and checks the results.
func useAll(ctx context.Context, r *Registry, n nodeOf) error {
	s := []presence.Session{{ID: 1, Mid: n.mid, Key: n.Name + "-1"}, {ID: 2, Mid: n.mid, Key: n.Name + "-2"}}
	if _, err := r.Lease(ctx, presence.NodeInfo{Node: n.Node}, long); err != nil {
		return err
	}
	if _, err := r.Connect(ctx, n.Node, s); err != nil {
		return err
	}
	if err := r.Renew(ctx, n.Node, s); err != nil {
		return err
	}
	query := []presence.Query{{Keys: []string{s[0].Key, s[1].Key}, Mids: []int64{n.mid}}}
	for _, want := range []int{4, 2, 0} {
		located, err := r.Locate(ctx, query)
		if err != nil {
			return err
		}
		if len(located.Results[0]) != want {
			return fmt.Errorf("%d locations, want %d: %+v", len(located.Results[0]), want, located)
		}
		switch want {
		case 4:
			err = r.Disconnect(ctx, n.Node, s[:1])
		case 2:
			err = r.Release(ctx, n.Node)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nodeOf is a node and the user of its sessions.
type nodeOf struct {
	presence.Node
	mid int64
}

func TestScriptsAreLoadedAgain(t *testing.T) {
	everyServer(t, func(t *testing.T, addr string) {
		conn := dial(t, addr)
		r := open(t, addr, long)
		if err := useAll(t.Context(), r, nodeOf{node("fresh"), 1}); err != nil {
			t.Fatal(err)
		}
		// In the middle of everything: between and within pipelines. The users go
		// on until enough was flushed, and the flushes until they are done.
		ctx, stop := context.WithCancel(t.Context())
		var users, flusher sync.WaitGroup
		var flushes atomic.Int64
		flusher.Go(func() {
			for ctx.Err() == nil {
				if _, err := conn.Do("SCRIPT", "FLUSH"); err != nil {
					t.Error(err)
					stop()
					return
				}
				flushes.Add(1)
			}
		})
		for i := range 4 {
			users.Go(func() {
				for n := 0; n < 10 || flushes.Load() < 10 && ctx.Err() == nil; n++ {
					if err := useAll(t.Context(), r, nodeOf{node(fmt.Sprint("n", i, "-", n)), int64(1_000_000*i + n + 10)}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		users.Wait()
		stop()
		flusher.Wait()
	})
}

func TestUserEntriesArePruned(t *testing.T) {
	server := miniredis.RunT(t)
	conn := dial(t, server.Addr())
	short, lasting := open(t, server.Addr(), time.Minute), open(t, server.Addr(), long)
	clock := time.Now()
	server.SetTime(clock)
	connect := func(r *Registry, id uint64) {
		t.Helper()
		if _, err := r.Connect(t.Context(), node("a"), []presence.Session{{ID: id, Mid: 42}}); err != nil {
			t.Fatal(err)
		}
	}
	connect(lasting, 1)
	most := 0
	for id := uint64(2); id < 200; id++ {
		connect(short, id) // nobody disconnects it
		if id%4 == 0 {
			clock = clock.Add(time.Minute)
			server.SetTime(clock)
			if time.Until(clock) > long/2 {
				connect(lasting, 1)
			}
		}
		fields, err := redis.Int(conn.Do("HLEN", userKey(42)))
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, fields)
	}
	if most < 7 || most > 8 {
		t.Errorf("up to %d entries for one lasting session and at most four short ones, want 7 or 8", most)
	}
	kept, err := redis.Bool(conn.Do("HEXISTS", userKey(42), "a/7/1"))
	if err != nil || !kept {
		t.Errorf("the lasting session is gone: %v %v", kept, err)
	}
}

func TestLeasesArePruned(t *testing.T) {
	server := miniredis.RunT(t)
	conn := dial(t, server.Addr())
	r := open(t, server.Addr(), long)
	clock := time.Now()
	for i := range 50 {
		server.SetTime(clock)
		clock = clock.Add(time.Minute)
		info := presence.NodeInfo{Node: node(fmt.Sprint("pod-", i))}
		if _, err := r.Lease(t.Context(), info, time.Minute); err != nil {
			t.Fatal(err)
		}
		if nodes, err := r.Nodes(t.Context()); err != nil || len(nodes) != 1 {
			t.Fatal(nodes, err)
		}
	}
	fields, err := redis.Strings(conn.Do("HKEYS", nodesKey))
	if err != nil || !reflect.DeepEqual(fields, []string{"pod-49"}) {
		t.Errorf("nodes = %v %v, want the last one only", fields, err)
	}
	if len(r.parsed) > 3 {
		t.Errorf("%d parsed nodes are kept", len(r.parsed))
	}
}

func TestUnreadableNodeIsNotLive(t *testing.T) {
	server := miniredis.RunT(t)
	conn := dial(t, server.Addr())
	r := open(t, server.Addr(), long)
	if _, err := r.Lease(t.Context(), presence.NodeInfo{Node: node("good")}, long); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"empty": "", "end": "9999999999999", "text": "soon|1|7||{}", "json": "9999999999999|1|7||{", "incarnation": "9999999999999|1|-7||{}", "parts": "9999999999999|1|7|{}",
	} {
		do(t, conn, "HSET", nodesKey, name, value)
	}
	nodes, err := r.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Name != "good" {
		t.Errorf("nodes = %+v %v", nodes, err)
	}
	if existed, err := r.Lease(t.Context(), presence.NodeInfo{Node: node("json")}, long); err != nil || !existed {
		t.Errorf("lease over a record of the same incarnation: %v %v", existed, err)
	}
	if _, err := r.Lease(t.Context(), presence.NodeInfo{Node: node("text")}, long); err != nil {
		t.Error(err)
	}
	if err := r.Release(t.Context(), node("empty")); err != nil {
		t.Error(err)
	}
}

func TestDatabaseAndPassword(t *testing.T) {
	addr := testdeps.Redis(t).Addr
	conn := dial(t, addr)
	do(t, conn, "CONFIG", "SET", "requirepass", "secret-word")
	cfg := patientConfig(addr)
	cfg.Password, cfg.DB = "secret-word", 3
	r := openConfig(t, cfg)
	if _, err := r.Connect(t.Context(), node("a"), []presence.Session{{ID: 1, Key: "k"}}); err != nil {
		t.Fatal(err)
	}
	do(t, conn, "AUTH", "secret-word")
	do(t, conn, "SELECT", 3)
	if n, err := redis.Int(conn.Do("EXISTS", "key:k")); err != nil || n != 1 {
		t.Errorf("key:k in database 3: %d %v", n, err)
	}
	cfg.Password = "wrong-word"
	err := openConfig(t, cfg).Ping(t.Context())
	if err == nil || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "wrong-word") {
		t.Errorf("ping with a wrong password: %v", err)
	}
}

func TestErrorReply(t *testing.T) {
	everyServer(t, func(t *testing.T, addr string) {
		conn := dial(t, addr)
		r := open(t, addr, long)
		do(t, conn, "RPUSH", nodesKey, "somebody else's list")
		_, err := r.Lease(t.Context(), presence.NodeInfo{Node: node("a")}, long)
		if err == nil || !strings.Contains(err.Error(), "lease of a") || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("lease: %v", err)
		}
		if _, err := r.Locate(t.Context(), []presence.Query{{Keys: []string{"k"}}}); err == nil {
			t.Error("locate without nodes succeeded")
		}
		do(t, conn, "DEL", nodesKey)
		if err := useAll(t.Context(), r, nodeOf{node("a"), 1}); err != nil {
			t.Errorf("the connection is not usable after an error reply: %v", err)
		}
	})
}

// Somebody else's list under the name of one of ours costs that one only.
func TestKeyOfAnotherType(t *testing.T) {
	everyServer(t, func(t *testing.T, addr string) {
		conn := dial(t, addr)
		r := open(t, addr, long)
		n := node("a")
		if _, err := r.Lease(t.Context(), presence.NodeInfo{Node: n}, long); err != nil {
			t.Fatal(err)
		}
		do(t, conn, "RPUSH", keyKey("bad"), "x")
		do(t, conn, "RPUSH", userKey(13), "x")
		sessions := []presence.Session{{ID: 1, Mid: 13, Key: "bad"}, {ID: 2, Mid: 14, Key: "good"}}
		located := func(query presence.Query, want int) {
			t.Helper()
			got, err := r.Locate(t.Context(), []presence.Query{query})
			if err != nil || len(got.Results[0]) != want {
				t.Errorf("%+v: %+v %v, want %d locations", query, got.Results, err, want)
			}
		}
		good := presence.Query{Keys: []string{"bad", "good"}, Mids: []int64{14}} // a list is no location
		fails := func(what string, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err := r.Connect(t.Context(), n, sessions)
		fails("connect", err)
		located(good, 2)
		do(t, conn, "DEL", keyKey("good"), userKey(14))
		fails("renew", r.Renew(t.Context(), n, sessions))
		located(good, 2)
		fails("disconnect", r.Disconnect(t.Context(), n, sessions))
		located(good, 0)
	})
}

func TestOutage(t *testing.T) {
	server := testdeps.Redis(t)
	cfg := patientConfig(server.Addr)
	cfg.PoolSize, cfg.PoolIdle = 16, 16
	r := openConfig(t, cfg)
	fillPool(t, r, 8)

	server.Kill()
	start := time.Now()
	for range 32 { // more than there are connections
		if err := r.Ping(t.Context()); err == nil {
			t.Fatal("ping of a dead Redis succeeded")
		}
	}
	if took := time.Since(start); took > cfg.ReadTimeout {
		t.Errorf("32 errors took %v", took)
	}

	// Symptom: after a restart of Redis, one error per idle connection.
	// Cause: a pool that hands out connections without looking at them.
	server.Restart()
	fillPool(t, r, 8)
	server.Kill()
	server.Restart()
	for i := range 16 {
		if err := useAll(t.Context(), r, nodeOf{node(fmt.Sprint("n", i)), int64(i + 1)}); err != nil {
			t.Fatalf("call %d after the restart: %v", i, err)
		}
	}
}

// fillPool leaves n idle connections: as many calls wait in Redis at once.
func fillPool(t *testing.T, r *Registry, n int) {
	t.Helper()
	waits := []redisconn.Command{{Name: "BLPOP", Args: []any{"never", "0.1"}}}
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			if _, err := r.run(t.Context(), waits); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

func TestFrozenRedis(t *testing.T) {
	server := testdeps.Redis(t)
	cfg := patientConfig(server.Addr)
	cfg.PoolSize, cfg.PoolIdle = 1, 1
	r := openConfig(t, cfg)
	brief := cfg
	brief.ReadTimeout = time.Second
	impatient := openConfig(t, brief)
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Pause()
	one := []presence.Session{{ID: 1, Mid: 1, Key: "k"}}

	start := time.Now()
	deadline, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Connect(deadline, node("a"), one); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connect with a deadline: %v", err)
	}
	// The second call waits for the only connection of the pool.
	canceled, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			if _, err := r.Locate(canceled, []presence.Query{{Keys: []string{"k"}}}); !errors.Is(err, context.Canceled) {
				t.Errorf("locate with a canceled context: %v", err)
			}
		})
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	calls.Wait()
	if took := time.Since(start); took > cfg.ReadTimeout {
		t.Errorf("ended contexts held the calls for %v", took)
	}

	start = time.Now()
	err := impatient.Ping(t.Context()) // no deadline but the configured one
	if !timedOut(err) {
		t.Errorf("ping: %v, want a timeout", err)
	}
	if took := time.Since(start); took < brief.ReadTimeout/2 || took > cfg.ReadTimeout {
		t.Errorf("ping failed after %v, want about %v", took, brief.ReadTimeout)
	}

	server.Resume()
	if err := useAll(t.Context(), r, nodeOf{node("a"), 2}); err != nil {
		t.Errorf("after the freeze: %v", err)
	}
	for mid := int64(3); ; mid++ { // a machine that stands still is another timeout
		if err = useAll(t.Context(), impatient, nodeOf{node(fmt.Sprint("b", mid)), mid}); !timedOut(err) || time.Since(start) > 5*time.Minute {
			break
		}
	}
	if err != nil {
		t.Errorf("after the freeze and a timeout: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Ping(t.Context()); err == nil {
		t.Error("a closed registry answers")
	}
}

func timedOut(err error) bool {
	netErr := net.Error(nil)
	return errors.As(err, &netErr) && netErr.Timeout()
}

// Symptom: Redis restarted from a snapshot, or a replica that was behind took
// over: sessions that had connected since were unreachable for a renew period
// (8 minutes). Cause: the lease was in what was left, so nobody asked the comet
// for its sessions. Now a lease that another process of Redis has written does
// not count as there.
func TestRestartFromASnapshot(t *testing.T) {
	server := testdeps.Redis(t)
	r := open(t, server.Addr, long)
	info := presence.NodeInfo{Node: node("a"), GRPCAddr: "127.0.0.1:1"}
	lease := func(want bool) {
		t.Helper()
		if existed, err := r.Lease(t.Context(), info, long); err != nil || existed != want {
			t.Fatalf("lease existed: %v %v, want %v", existed, err, want)
		}
	}
	lease(false)
	lease(true)
	do(t, dial(t, server.Addr), "SAVE")
	session := presence.Session{ID: 1, Mid: 1, Key: "late"}
	if _, err := r.Connect(t.Context(), info.Node, []presence.Session{session}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Restart()
	if nodes, err := r.Nodes(t.Context()); err != nil || len(nodes) != 1 {
		t.Fatalf("nodes after the restart: %v %v, want the one of the snapshot", nodes, err)
	}
	lease(false)
	lease(true)
}

// Symptom: the same for clients that had reconnected since, but longer: their
// keys named their old sessions again, and Renew takes no key from a session on
// a live node. Cause: it took the word of a Redis that had forgotten the end of
// that session. Whatever an earlier process of Redis has written yields to a
// session that is renewed.
func TestKeysAfterASnapshot(t *testing.T) {
	server := testdeps.Redis(t)
	r := open(t, server.Addr, long)
	a, b := presence.NodeInfo{Node: node("a")}, presence.NodeInfo{Node: node("b")}
	leases := func() {
		t.Helper()
		for _, info := range []presence.NodeInfo{a, b} {
			if _, err := r.Lease(t.Context(), info, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	leases()
	old, now := presence.Session{ID: 1, Key: "k"}, presence.Session{ID: 2, Key: "k"}
	if _, err := r.Connect(t.Context(), a.Node, []presence.Session{old}); err != nil {
		t.Fatal(err)
	}
	do(t, dial(t, server.Addr), "SAVE")
	if _, err := r.Connect(t.Context(), b.Node, []presence.Session{now}); err != nil {
		t.Fatal(err)
	}
	if err := r.Disconnect(t.Context(), a.Node, []presence.Session{old}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Restart()
	leases()
	holder := func(want uint64) {
		t.Helper()
		located, err := r.Locate(t.Context(), []presence.Query{{Keys: []string{"k"}}})
		if err != nil || len(located.Results[0]) != 1 || located.Results[0][0].Session != want {
			t.Fatalf("the key names %+v (%v), want session %d", located.Results[0], err, want)
		}
	}
	holder(1)
	if err := r.Renew(t.Context(), b.Node, []presence.Session{now}); err != nil {
		t.Fatal(err)
	}
	holder(2)
	// What this process of Redis has been told stays as it is.
	if err := r.Renew(t.Context(), a.Node, []presence.Session{old}); err != nil {
		t.Fatal(err)
	}
	holder(2)
}

// Symptom: after Redis had hung for some seconds, many keys named sessions that
// did not exist, until their time to live was over; the clients that had come
// back meanwhile were not reachable by key. Cause: a Redis that goes on serves
// also what its callers gave up long ago, and in any order; a late renewal named
// a session that had ended meanwhile.
func TestLateConnectIsNotServed(t *testing.T) {
	server := testdeps.Redis(t)
	r := open(t, server.Addr, long)
	info := presence.NodeInfo{Node: node("a"), GRPCAddr: "127.0.0.1:1"}
	if _, err := r.Lease(t.Context(), info, long); err != nil {
		t.Fatal(err)
	}
	// Redis knows the scripts: late, it would not be sent their source any more.
	other := []presence.Session{{ID: 9, Mid: 9, Key: "other"}}
	if _, err := r.Connect(t.Context(), info.Node, other); err != nil {
		t.Fatal(err)
	}
	if err := r.Renew(t.Context(), info.Node, other); err != nil {
		t.Fatal(err)
	}
	late := []presence.Session{{ID: 1, Mid: 1, Key: "k"}}
	for name, call := range map[string]func(ctx context.Context) error{
		"connect": func(ctx context.Context) error { _, err := r.Connect(ctx, info.Node, late); return err },
		"renew":   func(ctx context.Context) error { return r.Renew(ctx, info.Node, late) },
	} {
		readClock(t, r)
		server.Pause()
		deadline, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		// A reading of the clock may be off by 25 ms: Redis goes on well behind the deadline.
		over, cancelOver := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := call(deadline)
		<-over.Done()
		cancelOver()
		cancel()
		if err == nil {
			t.Fatalf("%s: a frozen Redis answered", name)
		}
		server.Resume()
		located, err := r.Locate(t.Context(), []presence.Query{{Keys: []string{"k"}, Mids: []int64{1}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(located.Results[0]) != 0 {
			t.Errorf("%s: the session that was given up is located: %+v", name, located.Results[0])
		}
	}
	if _, err := r.Connect(t.Context(), info.Node, []presence.Session{{ID: 2, Mid: 1, Key: "k"}}); err != nil {
		t.Error(err)
	}
}

// readClock has the registry read Redis's clock until that took so little that
// it is off by 25 ms at most.
func readClock(t *testing.T, r *Registry) {
	t.Helper()
	for {
		began := time.Now()
		if _, err := r.Nodes(t.Context()); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) <= closeRead {
			return
		}
	}
}

// Symptom: a key whose holder's node had died named a session that had ended
// meanwhile. Cause: the second step of a renewal, which takes such keys back, was
// served behind the end of its caller.
func TestLateTakeBackIsNotServed(t *testing.T) {
	server := miniredis.RunT(t)
	now := time.Now()
	server.SetTime(now)
	r := open(t, server.Addr(), long)
	if _, err := r.Nodes(t.Context()); err != nil { // reads the clock
		t.Fatal(err)
	}
	dead := []presence.Session{{ID: 1, Key: "k"}}
	if _, err := r.Connect(t.Context(), node("dead"), dead); err != nil {
		t.Fatal(err)
	}
	before, err := server.Get("key:k")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	until := r.clock.deadline(ctx)
	server.SetTime(now.Add(time.Minute)) // served a minute after it was asked
	foreign := []foreignKey{{presence.Session{ID: 2, Key: "k"}, []byte(before)}}
	if err := r.takeFromTheDead(ctx, node("a"), foreign, until); err == nil {
		t.Error("no error")
	}
	if after, _ := server.Get("key:k"); after != before {
		t.Errorf("the key was %q and is %q", before, after)
	}
}
