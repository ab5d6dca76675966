package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/client"
)

// A user's device is away while 1,000 messages come to the inbox, and returns
// through another comet: it gets them by sync pages of a bounded size, the
// older ones from the archive, the newest from Redis. The user's device that
// stayed gets them pushed. Both get each once, in one order, and end at the
// same cursor, which is also the server's.
func TestWhoWasAwayGetsEverythingThroughAnotherComet(t *testing.T) {
	const messages, early = 1000, 5
	c := newCluster(t)
	c.settings["logic"] = []string{"archive.dsn=" + testdeps.Database(testdeps.MariaDB(t))}
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	c.start("job", "job-1")
	hc := httpClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	bases := []string{"http://" + logics[0].addrs["http"], "http://" + logics[1].addrs["http"]}

	l := &storedLoad{want: map[message.Timeline][]string{}}
	inbox := message.Inbox(42)
	push := func(n int) {
		t.Helper()
		if err := l.push(ctx, hc, bases, message.ToUser(42), n); err != nil {
			t.Fatal(err)
		}
	}
	var cursors client.MemoryCursors
	home := newDeviceBeating(t, 4*time.Minute, comets[1], 42, &client.MemoryCursors{})
	phone := newDevice(t, comets[0], 42, &cursors)
	for n := range early {
		push(n)
	}
	home.expect(string(inbox), l.want[inbox])
	phone.expect(string(inbox), l.want[inbox])
	phone.stop()
	syncsBefore, pagesBefore := home.wire.counts()

	const producers = 8
	failed := make(chan error, producers)
	for p := range producers {
		go func() {
			for n := early + p; n < early+messages; n += producers {
				if err := l.push(ctx, hc, bases, message.ToUser(42), n); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range producers {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	var order []string // of the timeline: the log's, not that in which the producers heard of it
	waitFor(t, time.Minute, func() (err error) {
		if order, _, err = home.bodies(string(inbox)); err == nil && len(order) < early+messages {
			err = fmt.Errorf("the device that stayed has %d", len(order))
		}
		return err
	})
	if got, want := slices.Sorted(slices.Values(order)), slices.Sorted(slices.Values(l.want[inbox])); !slices.Equal(got, want) {
		t.Fatalf("the device that stayed has %d of %d: %.500q", len(got), len(want), got)
	}
	last := [producers]int{}
	for _, body := range order[early:] {
		n := 0
		if _, err := fmt.Sscanf(body, string(inbox)+"|%d", &n); err != nil || n <= last[n%producers] {
			t.Errorf("%q after %d of its producer, %v", body, last[n%producers], err)
		}
		last[n%producers] = n
	}
	if syncs, pages := home.wire.counts(); syncs != syncsBefore || len(pages) != len(pagesBefore) {
		t.Errorf("the device that stayed asked %d times, and got %d pages", syncs-syncsBefore, len(pages)-len(pagesBefore))
	}

	back := newDevice(t, comets[1], 42, &cursors)
	back.expect(string(inbox), order[early:])
	if _, pages := back.wire.counts(); len(pages) < messages/timeline.MaxPageEntries || pages[0] == 0 {
		t.Errorf("the pages %v", pages)
	} else {
		for _, n := range pages {
			if n > timeline.MaxPageEntries {
				t.Errorf("the pages %v: at most %d", pages, timeline.MaxPageEntries)
			}
		}
		t.Logf("pages of %v messages", pages)
	}
	waitFor(t, patience, func() error { // a cursor is kept behind its message
		if a, b := home.at(string(inbox)), back.at(string(inbox)); a != b || a.Seq != messages+early {
			return fmt.Errorf("the device that stayed is at %+v, the one that was away at %+v", a, b)
		}
		return nil
	})
	waitFor(t, patience, func() error {
		_, answer, err := get(ctx, hc, bases[0]+"/v1/users/42/unread")
		var stand struct {
			Timelines []struct {
				Epoch uint32
				Acked uint64
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(answer), &stand)
		}
		at := home.at(string(inbox))
		if err != nil || len(stand.Timelines) != 1 || stand.Timelines[0].Epoch != at.Epoch || stand.Timelines[0].Acked != at.Seq {
			return fmt.Errorf("the server says %s, the devices are at %+v, %v", answer, at, err)
		}
		return nil
	})

	// Nothing of it comes again: not now, and not to the program started once more.
	push(early + messages)
	order = append(order, l.want[inbox][early+messages])
	home.expect(string(inbox), order)
	back.expect(string(inbox), order[early:])
	back.stop()
	push(early + messages + 1)
	again := newDevice(t, comets[0], 42, &cursors)
	again.expect(string(inbox), l.want[inbox][early+messages+1:])
}
