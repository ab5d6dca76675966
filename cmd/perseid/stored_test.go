package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
)

// device is a client of a user, and what its application got.
type device struct {
	*client.Client
	mu    sync.Mutex
	got   map[string][]string
	told  int // messages that are not stored
	skips int
	stop  func()
}

func newDevice(t *testing.T, address string, mid int64, cursors client.CursorStore, rooms ...string) *device {
	t.Helper()
	d := &device{got: map[string][]string{}}
	var err error
	d.Client, err = client.New(client.Config{
		Address: address, Auth: client.Auth{Mid: mid}, Cursors: cursors, DialTimeout: patience,
		Heartbeat: 30 * time.Second, // it ends by no silence of a machine that stands still
		Backoff:   client.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- d.Run(ctx, client.Handler{
			Connected: func(ctx context.Context, c *client.Conn) error {
				_, err := c.Join(ctx, rooms...)
				return err
			},
			Message: func(m client.Message) {
				d.mu.Lock()
				defer d.mu.Unlock()
				if m.Seq == 0 {
					d.told++
					return
				}
				d.got[m.Timeline] = append(d.got[m.Timeline], fmt.Sprintf("%d %s from %d", m.Seq, m.Body, m.Sender))
			},
			Skipped: func(client.Skip) { d.mu.Lock(); d.skips++; d.mu.Unlock() },
		})
	}()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func (d *device) has(t *testing.T, timeline string, want []string) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(3 * patience); ; <-poll.C {
		d.mu.Lock()
		got, skips := slices.Clone(d.got[timeline]), d.skips
		d.mu.Unlock()
		if slices.Equal(got, want) && skips == 0 {
			return
		}
		if len(got) > len(want) || skips > 0 || time.Now().After(deadline) {
			t.Fatalf("%s: %d skips, got %d: %.500q\nwant %d: %.500q", timeline, skips, len(got), got, len(want), want)
		}
	}
}

// The whole way of stored messages: sent by a user, kept, pushed to who is
// here, fetched by who was away, in one order for both.
func TestStoredMessagesThroughEverything(t *testing.T) {
	addrs, _ := allInOne(t)
	tcp, webSocket := "tcp://"+addrs["tcp"], "ws://"+addrs["ws"]
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()

	alice := newDevice(t, tcp, 1, nil)
	here := newDevice(t, webSocket, 2, nil, "live://1")
	var inbox, room, own []string
	send := func(to, body string) {
		t.Helper()
		if _, err := alice.Publish(ctx, client.Outgoing{To: to, Op: 1000, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		body := fmt.Sprint("m", i)
		send("u:2", body)
		inbox = append(inbox, fmt.Sprintf("%d %s from 1", i+1, body))
		own = append(own, fmt.Sprintf("%d %s from 1", i+1, body))
	}
	here.has(t, "u:2", inbox)
	alice.has(t, "u:1", own) // chat is also for the sender's other sessions

	// Only who is in a room may write to it.
	refused, ok := func() (*client.RefusedError, bool) {
		_, err := alice.Publish(ctx, client.Outgoing{To: "r:live://1", Op: 1000})
		return errors.AsType[*client.RefusedError](err)
	}()
	if !ok || refused.Code != 403 {
		t.Errorf("a room that the user is not in: %v", refused)
	}
	for i := range 20 {
		if _, err := here.Publish(ctx, client.Outgoing{To: "r:live://1", Op: 1000, Body: []byte("r"), ClientID: fmt.Sprint("c", i/2)}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			room = append(room, fmt.Sprintf("%d r from 2", i/2+1)) // sent twice, there once
		}
	}
	here.has(t, "r:live://1", room)

	// A device that was away, with its cursors, and one that was never here.
	cursors := &client.MemoryCursors{}
	if err := cursors.Save(ctx, "u:2", client.Cursor{}); err != nil {
		t.Fatal(err)
	}
	away := newDevice(t, tcp, 2, cursors)
	away.has(t, "u:2", inbox)
	away.stop()
	send("u:2", "later")
	again := newDevice(t, tcp, 2, cursors)
	again.has(t, "u:2", []string{"101 later from 1"})
	here.has(t, "u:2", append(inbox, "101 later from 1"))
	var a client.Cursor
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); a.Seq != 101; <-poll.C { // it is kept behind the message
		if a, _, _ = cursors.Load(ctx, "u:2"); a.Seq > 101 || time.Now().After(deadline) {
			t.Fatalf("cursor %+v", a)
		}
	}

	// Reading is told to the other devices.
	standing, err := again.Conn().Read(ctx, "u:2", client.Cursor{Epoch: a.Epoch, Seq: 100})
	if err != nil || standing.Read != 100 || standing.Unread != 1 {
		t.Errorf("read: %+v, %v", standing, err)
	}
	for told, deadline := 0, time.Now().Add(patience); told == 0; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatal("the other device was not told")
		}
		here.mu.Lock()
		told = here.told
		here.mu.Unlock()
	}
	messages, more, err := again.Conn().History(ctx, "u:2", client.At{Before: 101}, 3)
	if err != nil || len(messages) != 3 || messages[2].Seq != 100 {
		t.Errorf("history: %d messages, more %v, %v", len(messages), more, err)
	}

	// A new device begins where the user is, over all devices.
	if standing, err = again.Conn().Read(ctx, "u:2", client.Cursor{Epoch: a.Epoch, Seq: 101}); err != nil || standing.Unread != 0 {
		t.Errorf("read: %+v, %v", standing, err)
	}
	here.stop()
	again.stop()
	send("u:2", "for all")
	newDevice(t, webSocket, 2, nil).has(t, "u:2", []string{"102 for all from 1"})
}
