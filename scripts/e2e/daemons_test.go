package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// inbox collects what one client gets.
type inbox chan string

func (b inbox) push(op wire.Op, body []byte) { b <- fmt.Sprintf("%d %s", op, body) }

func (b inbox) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-b:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("nothing came, want %q", want)
	}
}

// expectAll takes messages of different timelines, which have no order.
func (b inbox) expectAll(t *testing.T, want ...string) {
	t.Helper()
	for len(want) > 0 {
		select {
		case got := <-b:
			i := slices.Index(want, got)
			if i < 0 {
				t.Fatalf("got %q, want %q", got, want)
			}
			want = slices.Delete(want, i, i+1)
		case <-time.After(patience):
			t.Fatalf("nothing came, want %q", want)
		}
	}
}

func (b inbox) expectNothing(t *testing.T) {
	t.Helper()
	select {
	case got := <-b:
		t.Fatalf("got %q, want nothing", got)
	default:
	}
}

// Two of each daemon: every target through every logic reaches clients on
// both comets, and goim's client operations do what they do in goim.
func TestDaemonsTogether(t *testing.T) {
	c := newCluster(t)
	c.patient()
	// Everything at once, in no order: they wait for each other.
	var all []*daemon
	for _, kind := range []string{"job", "comet", "logic"} {
		for i := 1; i <= 2; i++ {
			all = append(all, c.launch(kind, fmt.Sprintf("%s-%d", kind, i)))
		}
	}
	for _, d := range all {
		c.waitReady(d)
	}
	comets, logics := all[2:4], all[4:6]
	hc := httpClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	var clients []*goim
	var boxes []inbox
	for i, comet := range comets {
		box := make(inbox, 100)
		cl, err := connect(ctx, comet.addrs["tcp"], fmt.Sprintf(`{"mid":7,"key":"k%d","room_id":"live://1","platform":"ios","accepts":[1000]}`, i), box.push)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.close()
		clients, boxes = append(clients, cl), append(boxes, box)
	}
	push := func(logic *daemon, query, body string) {
		t.Helper()
		status, answer, err := post(ctx, hc, "http://"+logic.addrs["http"]+"/goim/push/"+query, "text/plain", body)
		if err != nil || status != 200 || answer != `{"code":0,"message":""}` {
			t.Fatalf("%s: %d %q %v", query, status, answer, err)
		}
	}
	for _, logic := range logics {
		push(logic, "keys?operation=1000&keys=k0", "by key 0")
		boxes[0].expect(t, "1000 by key 0")
		push(logic, "keys?operation=1000&keys=k0&keys=k1&keys=nobody", "by keys")
		push(logic, "mids?operation=1000&mids=7&mids=8", "by mid")
		for _, box := range boxes {
			box.expectAll(t, "1000 by keys", "1000 by mid")
		}
		push(logic, "room?operation=4000&type=live&room=1", "rooms ignore accepts")
		push(logic, "all?operation=1000", "to all")
		for _, box := range boxes {
			box.expectAll(t, "4000 rooms ignore accepts", "1000 to all")
		}
	}
	boxes[1].expectNothing(t)

	// Operations of the client.
	if p, err := clients[0].call(ctx, wire.OpHeartbeat, ""); err != nil || len(p.Body) != 4 {
		t.Fatalf("heartbeat: %x %v", p.Body, err)
	}
	if _, err := clients[0].call(ctx, wire.OpUnsub, "1000"); err != nil {
		t.Fatal(err)
	}
	push(logics[0], "keys?operation=1000&keys=k0", "filtered")
	if _, err := clients[0].call(ctx, wire.OpSub, "1001"); err != nil {
		t.Fatal(err)
	}
	push(logics[0], "keys?operation=1001&keys=k0", "subscribed")
	boxes[0].expect(t, "1001 subscribed") // the same timeline: "filtered" would have come first
	if _, err := clients[0].call(ctx, wire.OpSub, "1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := clients[0].call(ctx, wire.OpChangeRoom, "live://2"); err != nil {
		t.Fatal(err)
	}
	push(logics[1], "room?operation=1000&type=live&room=2", "new room at once")
	boxes[0].expect(t, "1000 new room at once")
	push(logics[1], "room?operation=1000&type=live&room=1", "old room")
	boxes[1].expect(t, "1000 old room")
	boxes[0].expectNothing(t)

	// What the HTTP API says of them.
	waitFor(t, patience, func() error {
		_, total, err := get(ctx, hc, "http://"+logics[0].addrs["http"]+"/goim/online/total")
		if err != nil || !strings.Contains(total, `"conn_count":2`) {
			return fmt.Errorf("online/total: %s %v", total, err)
		}
		_, rooms, err := get(ctx, hc, "http://"+logics[1].addrs["http"]+"/goim/online/room?type=live&rooms=1&rooms=2&rooms=3")
		if err != nil || rooms != `{"code":0,"message":"","data":{"1":1,"2":1,"3":0}}` {
			return fmt.Errorf("online/room: %s %v", rooms, err)
		}
		_, nodes, err := get(ctx, hc, "http://"+logics[1].addrs["http"]+"/goim/nodes/instances")
		if err != nil || strings.Count(nodes, `"appid":"goim.comet"`) != 2 {
			return fmt.Errorf("nodes/instances: %s %v", nodes, err)
		}
		return nil
	})

	// A comet that is replaced under its name, at another address: clients are
	// elsewhere at once, and pushes find them (F-003.10, goim L11).
	if err := comets[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-clients[0].done
	again := c.start("comet", "comet-1")
	box := make(inbox, 100)
	cl, err := connect(ctx, again.addrs["tcp"], `{"mid":7,"key":"k0","room_id":"live://1","accepts":[1000]}`, box.push)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.close()
	push(logics[0], "keys?operation=1000&keys=k0", "after the crash")
	box.expect(t, "1000 after the crash")
	push(logics[0], "room?operation=1000&type=live&room=1", "room after the crash")
	box.expect(t, "1000 room after the crash")
	boxes[1].expect(t, "1000 room after the crash")

	// A clean stop drains: the client hears that it should come back elsewhere.
	if err := comets[1].Stop(); err != nil {
		t.Errorf("comet-2 did not stop in good order: %v\n%s", err, comets[1].log.tail(2000))
	}
	<-clients[1].done
	if status, answer, err := post(ctx, hc, "http://"+logics[0].addrs["http"]+"/v1/push", "application/json", `{"op":1000,"body":"x","targets":[{"key":"k1"},{"key":"k0"}]}`); err != nil || status != 202 {
		t.Errorf("push: %d %s %v", status, answer, err)
	} else {
		var reply struct {
			Results []struct {
				State string `json:"state"`
			} `json:"results"`
		}
		if err := json.Unmarshal([]byte(answer), &reply); err != nil || len(reply.Results) != 2 || reply.Results[0].State != "offline" || reply.Results[1].State != "online" {
			t.Errorf("states after the drain: %s %v", answer, err)
		}
	}
	box.expect(t, "1000 x")

	for _, d := range []*daemon{again, all[0], all[1], logics[0], logics[1]} {
		if err := d.Stop(); err != nil {
			t.Errorf("%s did not stop in good order: %v\n%s", d.name, err, d.log.tail(2000))
		}
	}
}

// A daemon whose stores are away says so and becomes ready when they come.
func TestStoresAwayAtStart(t *testing.T) {
	c := newCluster(t)
	c.redis.Stop()
	d := c.launch("logic", "logic-1")
	hc := httpClient(t)
	waitFor(t, patience, func() error {
		if log := d.log.tail(4000); !strings.Contains(log, "Redis does not answer") {
			return fmt.Errorf("no word about Redis in the log:\n%s", log)
		}
		return nil
	})
	if d.Ended() {
		t.Fatalf("it gave up\n%s", d.log.tail(4000))
	}
	c.redis.Restart()
	c.waitReady(d)
	status, body, err := get(t.Context(), hc, "http://"+d.addrs["admin"]+"/readyz")
	if err != nil || status != http.StatusOK {
		t.Fatalf("readyz: %d %s %v", status, body, err)
	}
	c.redis.Stop()
	waitFor(t, patience, func() error {
		if status, body, err := get(t.Context(), hc, "http://"+d.addrs["admin"]+"/readyz"); err != nil || status != http.StatusServiceUnavailable {
			return fmt.Errorf("readyz with Redis away: %d %s %v", status, body, err)
		}
		return nil
	})
}
