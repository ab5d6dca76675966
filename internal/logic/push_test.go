package logic_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/stream"
)

func TestAcceptRefuses(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes, c.MaxTargets = 10, 2 })
	ok := []message.Target{message.ToUser(1)}
	for _, c := range []struct {
		what    string
		flags   message.Flags
		body    string
		targets []message.Target
		reason  logic.Reason
	}{
		{"store", message.Store, "", ok, logic.NotSupported},
		{"large", 0, "12345678901", ok, logic.TooLarge},
		{"nobody", 0, "", nil, logic.NoTargets},
		{"many", 0, "", []message.Target{message.ToUser(1), message.ToUser(1), message.ToUser(1)}, logic.TooManyTargets},
		{"no kind", 0, "", []message.Target{{}}, logic.BadTarget},
		{"no key", 0, "", []message.Target{message.ToKey("")}, logic.BadTarget},
		{"bytes as key", 0, "", []message.Target{message.ToKey("\xff")}, logic.BadTarget},
		{"no user", 0, "", []message.Target{message.ToUser(0)}, logic.BadTarget},
		{"no room", 0, "", []message.Target{message.ToRoom("live")}, logic.BadTarget},
		{"bytes as room", 0, "", []message.Target{message.ToRoom("a://\xff")}, logic.BadTarget},
		{"slower than nothing", 0, "", []message.Target{message.ToAll(-1)}, logic.BadTarget},
	} {
		_, err := core.Accept(t.Context(), 1000, c.flags, []byte(c.body), c.targets)
		var refusal *logic.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != c.reason || refusal.Message == "" {
			t.Errorf("%s: %v, want %s", c.what, err, c.reason)
		}
	}
	if n := len(env.Records(t)); n != 0 {
		t.Errorf("%d records", n)
	}
}

// One id for all records of a push, whose time is the core's; targets once
// and in order; any operation that goim takes.
func TestAccept(t *testing.T) {
	env := logictest.New(t)
	at := time.UnixMilli(1_700_000_000_123)
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Now, d.Rand = func() time.Time { return at }, bytes.NewReader(bytes.Repeat([]byte{7}, 10))
	})
	id, err := core.Accept(t.Context(), -2147483648, message.Urgent, nil, []message.Target{
		message.ToKey("b"), message.ToKey("a"), message.ToRoom("r://1"), message.ToKey("b"), message.ToUser(1), message.ToRoom("r://1"),
		message.ToAll(3), message.ToAll(4),
	})
	if err != nil {
		t.Fatal(err)
	}
	if id.UnixMS() != at.UnixMilli() || !strings.HasSuffix(id.String(), strings.Repeat("07", 10)) {
		t.Errorf("id %v", id)
	}
	var got []string
	for _, r := range env.Records(t) {
		if (message.ID)(r.MsgId) != id || r.AcceptedMs != at.UnixMilli() || r.Operation != -2147483648 || message.Flags(r.Flags) != message.Urgent {
			t.Errorf("record %v", r)
		}
		got = append(got, fmt.Sprintf("%v %v %v %s %d", r.Type, r.Keys, r.Mids, r.Room, r.Speed))
	}
	want := []string{"PUSH [b a] [1]  0", "ROOM [] [] r://1 0", "BROADCAST [] []  3"}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

// Randomness that fails is no reason to accept with an id of zeros.
func TestAcceptWithoutRandomness(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Rand = bytes.NewReader(nil) })
	if _, err := core.Accept(t.Context(), 1, 0, nil, []message.Target{message.ToUser(1)}); err == nil {
		t.Error("accepted")
	}
}

// What only the log knows to be too large is refused, not "away".
func TestTooLargeForTheLog(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes = 2_000_000 })
	_, err := core.Accept(t.Context(), 1, 0, make([]byte, 1_500_000), []message.Target{message.ToUser(1)})
	var refusal *logic.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != logic.TooLarge {
		t.Errorf("%v", err)
	}
}

func TestAcceptWithoutKafka(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.AppendTimeout = 100 * time.Millisecond })
	env.Kafka.Close()
	if _, err := core.Accept(t.Context(), 1, 0, nil, []message.Target{message.ToUser(1)}); !errors.Is(err, logic.ErrLogAway) {
		t.Errorf("%v", err)
	}
	core.Drain()
	if _, err := core.Accept(t.Context(), 1, 0, nil, []message.Target{message.ToUser(1)}); !errors.Is(err, logic.ErrDraining) {
		t.Errorf("%v", err)
	}
}

// slowPresence hangs where a push asks who is online.
type slowPresence struct{ presence.Registry }

func (slowPresence) Locate(ctx context.Context, _ []presence.Query) (presence.Located, error) {
	<-ctx.Done()
	return presence.Located{}, ctx.Err()
}

// brokenPresence panics there.
type brokenPresence struct{ presence.Registry }

func (brokenPresence) Locate(context.Context, []presence.Query) (presence.Located, error) {
	panic("broken")
}

// A presence that hangs or is broken costs a push its states and no more than
// the state deadline.
func TestPushWithoutStates(t *testing.T) {
	env := logictest.New(t)
	for what, registry := range map[string]presence.Registry{"slow": slowPresence{env.Presence}, "broken": brokenPresence{env.Presence}} {
		core := env.Core(t, func(c *logic.Config, d *logic.Deps) {
			c.StateTimeout, d.Presence = 20*time.Millisecond, registry
		})
		pushed, err := core.Push(t.Context(), logic.PushRequest{States: true, Message: message.Message{Op: 1}, Targets: []message.Target{message.ToKey("k"), message.ToUser(1), message.ToAll(0)}})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, s := range pushed.States {
			if s.State != logic.Unknown {
				t.Errorf("%s: %v is %s", what, s.Target, s.State)
			}
		}
		if len(pushed.States) != 3 {
			t.Errorf("%s: %d states", what, len(pushed.States))
		}
	}
}

// Counts that could not be read for a while are not called online.
func TestStaleCountsAreUnknown(t *testing.T) {
	env := logictest.New(t)
	node := env.Comet(t, presence.NodeInfo{Node: one("c1"), ConnCount: 1})
	env.Rooms(t, node, map[string]int32{"r://1": 1})
	core := env.Core(t, nil)
	targets := []message.Target{message.ToRoom("r://1"), message.ToAll(0)}
	push := func() [2]logic.State {
		pushed, err := core.Push(t.Context(), logic.PushRequest{States: true, Message: message.Message{Op: 1}, Targets: targets})
		if err != nil {
			t.Fatal(err)
		}
		return [2]logic.State{pushed.States[0].State, pushed.States[1].State}
	}
	logictest.Eventually(t, "both are online", func() bool { return push() == [2]logic.State{logic.Online, logic.Online} })
	env.Redis.SetError("away")
	logictest.Eventually(t, "neither is known", func() bool { return push() == [2]logic.State{logic.Unknown, logic.Unknown} })
}

var _ stream.Producer = countingLog{}

type countingLog struct{ appends *int }

func (l countingLog) Append(context.Context, message.Message, []message.Target) error {
	*l.appends++
	return nil
}
func (countingLog) Ping(context.Context) error { return nil }

func BenchmarkAccept(b *testing.B) {
	appends := 0
	core, err := logic.New(logic.DefaultConfig(), logic.Deps{Presence: slowPresence{}, Log: countingLog{&appends}})
	if err != nil {
		b.Fatal(err)
	}
	body, targets := make([]byte, 100), []message.Target{message.ToUser(1)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := core.Accept(b.Context(), 1000, 0, body, targets); err != nil {
			b.Fatal(err)
		}
	}
}
