package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/client"
)

// Without an archive, what Redis loses is lost, and everybody is told: who was
// here, who returns before anything new was said, and who returns when the new
// numbers have passed the position at which it left, so that nothing but the
// epoch shows the loss. Redis loses everything twice, flushed and restarted.
func TestLostRedisWithoutAnArchiveIsANewEpochForEverybody(t *testing.T) {
	const before, after = 6, 10 // the new numbers pass the old ones
	c := newCluster(t)
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	c.start("job", "job-1")
	hc := httpClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	bases := []string{"http://" + logics[0].addrs["http"], "http://" + logics[1].addrs["http"]}
	const room = "live://1"
	targets := []message.Target{message.ToUser(42), message.ToRoom(room)}

	l := &storedLoad{want: map[message.Timeline][]string{}}
	said := 0
	say := func(n int) {
		t.Helper()
		for range n {
			for _, to := range targets {
				if err := l.push(ctx, hc, bases, to, said); err != nil {
					t.Fatal(err)
				}
			}
			said++
		}
	}
	// lives waits until a device has what was said from here on, and nothing else.
	lives := func(who string, d *device, from int, resets int) {
		t.Helper()
		for _, to := range targets {
			tl, want := string(to.Timeline()), l.want[to.Timeline()][from:]
			waitFor(t, time.Minute, func() error {
				got, skips, err := d.bodies(tl)
				told := 0
				for _, s := range skips {
					if s.Timeline == tl && s.Reset {
						told++
					}
				}
				if err != nil || len(got) > len(want) || len(skips) > 2*resets {
					t.Fatalf("%s, %s: %d of %d, skips %+v: %v", who, tl, len(got), len(want), skips, err)
				}
				if !slices.Equal(got, want) || told != resets {
					return fmt.Errorf("%s, %s: skips %+v, has %d of %d: %.300q", who, tl, skips, len(got), len(want), got)
				}
				return nil
			})
		}
	}
	epochs := func(d *device) (list []uint32) {
		for _, to := range targets {
			list = append(list, d.at(string(to.Timeline())).Epoch)
		}
		return list
	}

	here := newDevice(t, comets[0], 42, &client.MemoryCursors{}, room)
	var left [2]client.MemoryCursors
	var all []uint32
	for life, lose := range []func(){
		nil,
		func() { flush(t, c.redis.Addr) },
		func() { c.redis.Kill(); c.redis.Restart() },
	} {
		if lose == nil {
			first := newDevice(t, comets[0], 42, &left[0], room)
			second := newDevice(t, comets[1], 42, &left[1], room)
			say(before)
			for _, d := range []*device{first, second} {
				lives("who will leave", d, 0, 0)
				d.stop()
			}
			lives("who is here", here, 0, 0)
			all = append(all, epochs(here)...)
			continue
		}
		lose()
		from := said
		early := newDevice(t, comets[1], 42, &left[0], room)
		say(after)
		late := newDevice(t, comets[1], 42, &left[1], room)
		lives("who was here", here, 0, life)
		lives("who came before the first new one", early, from, 1)
		lives("who came after them", late, from, 1)
		for _, d := range []*device{early, late} {
			if got := epochs(d); !slices.Equal(got, epochs(here)) {
				t.Errorf("epochs %v and %v", got, epochs(here))
			}
			d.stop()
		}
		for _, e := range epochs(here) {
			if slices.Contains(all, e) {
				t.Errorf("epoch %d again: %v", e, all)
			}
			all = append(all, e)
		}
	}
}
