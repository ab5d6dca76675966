package redistore

import (
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
)

// say appends a message to u:1, from a seed if there is none yet.
func say(t *testing.T, s *Store, inc timeline.Incarnation, offset int64) timeline.WindowAppended {
	t.Helper()
	batch := []timeline.WindowAppend{{
		Timeline: "u:1", Mode: timeline.Required, Keep: timeline.Keep{Entries: 100, HardEntries: 100, Bytes: 1 << 20, HardBytes: 1 << 20},
		Records: []timeline.Pending{{At: timeline.Offset{Generation: 1, Offset: offset}, Message: &message.Message{ID: message.ID{byte(offset)}, Body: []byte("x")}}},
	}}
	for range 2 {
		got, err := s.Append(t.Context(), inc, batch)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Status != timeline.Reload {
			return got[0]
		}
		batch[0].Seed = &timeline.Seed{Epoch: 1, AskedMS: got[0].NowMS}
	}
	t.Fatal("reload twice")
	return timeline.WindowAppended{}
}

func incarnation(t *testing.T, s *Store) timeline.Incarnation {
	t.Helper()
	inc, err := s.Incarnation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inc
}

// miss tells whether u:1 is unknown.
func miss(t *testing.T, s *Store) bool {
	t.Helper()
	tops, err := s.Tops(t.Context(), []message.Timeline{"u:1"})
	if err != nil {
		t.Fatal(err)
	}
	return tops[0].Miss
}

// expectRewind: what was asked under inc is refused, state of then is not read.
func expectRewind(t *testing.T, s *Store, inc timeline.Incarnation, what string) timeline.Incarnation {
	t.Helper()
	if got := say(t, s, inc, 50); got.Status != timeline.Rewind {
		t.Errorf("%s: %+v", what, got)
	}
	if !miss(t, s) {
		t.Errorf("%s: readers see the state of before", what)
	}
	next := incarnation(t, s)
	if next == inc {
		t.Errorf("%s: the same incarnation", what)
	}
	return next
}

// A Redis that was killed and has kept every write is another one all the
// same: what was not archived is appended again, and gets the same positions.
func TestARestartIsAnotherIncarnation(t *testing.T) {
	server := testdeps.Redis(t, testdeps.AOF()...)
	s := open(t, server.Addr)
	inc := incarnation(t, s)
	if got := say(t, s, inc, 1); got.Status != timeline.Applied || incarnation(t, s) != inc || miss(t, s) {
		t.Fatalf("%+v", got)
	}
	server.Kill()
	server.Restart()
	inc = expectRewind(t, s, inc, "restart with AOF")
	if got := say(t, s, inc, 2); got.Status != timeline.Applied || got.Verdicts[0].Seq != 1 {
		t.Fatalf("from an empty archive: %+v", got)
	}
	conn, err := redis.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Do("FLUSHALL"); err != nil {
		t.Fatal(err)
	}
	expectRewind(t, s, inc, "FLUSHALL")
}

// A replica that is promoted is another incarnation, and the old master that
// becomes one again is not the first one: its replication id has changed.
func TestAFailoverAndBackAreOtherIncarnations(t *testing.T) {
	servers := []*testdeps.Server{testdeps.Redis(t, "--repl-diskless-sync-delay", "0"), testdeps.Redis(t, "--repl-diskless-sync-delay", "0")}
	stores := []*Store{open(t, servers[0].Addr), open(t, servers[1].Addr)}
	do := func(i int, name string, args ...any) any {
		t.Helper()
		conn, err := redis.Dial("tcp", servers[i].Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		reply, err := conn.Do(name, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return reply
	}
	follow := func(i, master int) {
		t.Helper()
		host, port, err := net.SplitHostPort(servers[master].Addr)
		if err != nil {
			t.Fatal(err)
		}
		do(i, "REPLICAOF", host, port)
		do(master, "SET", "through", time.Now().String())
		poll := time.NewTicker(10 * time.Millisecond)
		defer poll.Stop()
		for deadline := time.Now().Add(time.Minute); !reflect.DeepEqual(do(i, "GET", "through"), do(master, "GET", "through")); <-poll.C {
			if time.Now().After(deadline) {
				t.Fatal("the replica does not follow")
			}
		}
	}
	alone := incarnation(t, stores[0])
	follow(1, 0)
	first := incarnation(t, stores[0])
	if first == alone {
		t.Error("the first replica of a master is a new replication id")
	}
	if got := say(t, stores[0], first, 1); got.Status != timeline.Applied {
		t.Fatalf("%+v", got)
	}
	do(1, "REPLICAOF", "NO", "ONE")
	second := expectRewind(t, stores[1], first, "failover")
	follow(0, 1)
	do(0, "REPLICAOF", "NO", "ONE")
	third := expectRewind(t, stores[0], second, "failback")
	if third == first {
		t.Error("the first incarnation came back")
	}
	if got := say(t, stores[0], first, 60); got.Status != timeline.Rewind {
		t.Errorf("asked under the first: %+v", got)
	}
}

// What waits for the archive does not expire; everything else does.
func TestOnlyArchivedStateExpires(t *testing.T) {
	w := realRedis(t)
	inc := incarnation(t, w.Store)
	ttls := func() (set int) {
		t.Helper()
		for _, key := range []string{metaKey("u:1"), logKey("u:1"), ringKey("u:1")} {
			if n, err := redis.Int64(w.do("PTTL", key), nil); err != nil || n == -2 {
				t.Fatalf("%s: %d, %v", key, n, err)
			} else if n > 0 {
				set++
			}
		}
		return set
	}
	mark := func(seq uint64) {
		t.Helper()
		if err := w.MarkArchived(t.Context(), []timeline.Top{{Timeline: "u:1", Position: timeline.Position{Epoch: 1, Seq: seq}}}); err != nil {
			t.Fatal(err)
		}
	}
	say(t, w.Store, inc, 1)
	say(t, w.Store, inc, 2)
	if n := ttls(); n != 0 {
		t.Errorf("%d keys expire, nothing is archived", n)
	}
	mark(1)
	if n := ttls(); n != 0 {
		t.Errorf("%d keys expire, one of two is archived", n)
	}
	mark(2)
	if n := ttls(); n != 3 {
		t.Errorf("%d keys expire, all is archived", n)
	}
	say(t, w.Store, inc, 3)
	if n := ttls(); n != 0 {
		t.Errorf("%d keys expire after one more", n)
	}
}

func FuzzValue(f *testing.F) {
	f.Add(encode(timeline.Offset{Generation: 1, Offset: 2}, &message.Message{ClientID: "c", Operator: "o", Source: "s", Body: []byte("b")}))
	f.Add([]byte("1 2 "))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		e, err := decode(1, value)
		if err != nil || e.Gone != timeline.Here {
			return
		}
		again, err := decode(1, encode(e.At, &e.Message))
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v came back as %+v, %v", e, again, err)
		}
	})
}
