package logic_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/presence"
)

func one(name string) presence.Node { return presence.Node{Name: name, Incarnation: 1} }

func item(session uint64, token string) logic.ConnectItem {
	return logic.ConnectItem{Session: session, Token: []byte(token), IP: "127.0.0.1"}
}

func TestConnect(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	node := env.Comet(t, presence.NodeInfo{Node: one("c1")})
	got := core.Connect(t.Context(), node, []logic.ConnectItem{
		item(1, `{"mid":7,"key":"k","room_id":"live://1","platform":"web","accepts":[1000]}`),
		item(2, `{"mid":"7"}`),
		item(3, `{"mid":8}`),
		item(4, `{"mid":7,"key":"k"}`), // takes the key of session 1
	})
	first := got[0]
	if first.Code != 0 || first.Mid != 7 || first.Key != "k" || first.Room != "live://1" || first.Platform != "web" ||
		!slices.Equal(first.Accepts, []int32{1000}) || first.Heartbeat != 8*time.Minute || first.Replaced != 0 {
		t.Errorf("first: %+v", first)
	}
	if got[1].Code != logic.CodeBadToken || got[1].Reason != "mid: an integer of 64 bits" {
		t.Errorf("bad token: %+v", got[1])
	}
	if got[2].Code != 0 || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got[2].Key) {
		t.Errorf("without a key: %+v", got[2])
	}
	if got[3].Code != 0 || got[3].Replaced != 1 {
		t.Errorf("same key: %+v", got[3])
	}

	routed, err := core.Route(t.Context(), []presence.Query{{Keys: []string{"k", got[2].Key, "nobody"}, Mids: []int64{7, 9}}, {}})
	if err != nil {
		t.Fatal(err)
	}
	if len(routed.Nodes) != 1 || routed.Nodes[0].Node != node || len(routed.Results) != 2 {
		t.Fatalf("routed %+v", routed)
	}
	var sessions []uint64
	for _, at := range routed.Results[0].Locations {
		sessions = append(sessions, at.Session)
	}
	slices.Sort(sessions)
	// Session 4 answers to the key and to the user, and is there once.
	if want := []uint64{3, 4}; !slices.Equal(slices.Compact(slices.DeleteFunc(sessions, func(s uint64) bool { return s == 1 })), want) || countOf(sessions, 4) != 1 {
		t.Errorf("sessions %v, want %v", sessions, want)
	}
	if routed.Results[0].Offline != 2 || routed.Results[1].Offline != 0 {
		t.Errorf("offline %d and %d, want 2 and 0", routed.Results[0].Offline, routed.Results[1].Offline)
	}

	// A late disconnect of the replaced session hides nobody (F-003.13).
	if err := core.Disconnect(t.Context(), node, []presence.Session{{ID: 1, Mid: 7, Key: "k"}}); err != nil {
		t.Fatal(err)
	}
	if routed, err = core.Route(t.Context(), []presence.Query{{Keys: []string{"k"}}}); err != nil || len(routed.Results[0].Locations) != 1 {
		t.Errorf("after a late disconnect: %+v, %v", routed, err)
	}
	if err := core.Leave(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if routed, err = core.Route(t.Context(), []presence.Query{{Keys: []string{"k"}}}); err != nil || len(routed.Nodes) != 0 || routed.Results[0].Offline != 1 {
		t.Errorf("after leave: %+v, %v", routed, err)
	}
}

func countOf(list []uint64, n uint64) (count int) {
	for _, one := range list {
		if one == n {
			count++
		}
	}
	return count
}

func TestConnectWithoutPresence(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	env.Redis.SetError("LOADING Redis is loading the dataset in memory")
	got := core.Connect(t.Context(), one("c1"), []logic.ConnectItem{item(1, `{"mid":7}`), item(2, `no`), item(3, `{}`)})
	if got[0].Code != logic.CodeUnavailable || got[1].Code != logic.CodeBadToken || got[2].Code != logic.CodeUnavailable {
		t.Errorf("%+v", got)
	}
	if got[0].Key != "" || got[0].Mid != 0 {
		t.Errorf("a refused session has an identity: %+v", got[0])
	}
	if err := core.Disconnect(t.Context(), one("c1"), []presence.Session{{ID: 1, Key: "k"}}); err == nil {
		t.Error("disconnect: no error")
	}
	if err := core.Leave(t.Context(), one("c1")); err == nil {
		t.Error("leave: no error")
	}
	if _, err := core.Refresh(t.Context(), logic.Refresh{Info: presence.NodeInfo{Node: one("c1")}}); err == nil {
		t.Error("refresh: no error")
	}
	if _, err := core.Route(t.Context(), []presence.Query{{}}); err == nil {
		t.Error("route: no error")
	}
}

type authFunc func() (logic.Identity, error)

func (f authFunc) Authenticate(context.Context, []byte, string, string) (logic.Identity, error) {
	return f()
}

// An authenticator that cannot decide is no reason to stay away for ever.
func TestAuthenticatorAway(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Auth = authFunc(func() (logic.Identity, error) {
			return logic.Identity{}, errors.New("password of ldap://secret refused")
		})
	})
	got := core.Connect(t.Context(), one("c1"), []logic.ConnectItem{item(1, `{}`)})
	if got[0].Code != logic.CodeUnavailable || got[0].Reason != "authentication is away, reconnect" {
		t.Errorf("%+v", got[0])
	}
}

func TestRefresh(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	info := presence.NodeInfo{Node: one("c1"), GRPCAddr: "10.0.0.1:3109", ConnCount: 3}
	other := env.Comet(t, presence.NodeInfo{Node: one("c2")})
	env.Rooms(t, other, map[string]int32{"live://1": 5, "live://2": 5})
	logictest.Eventually(t, "the other comet's rooms are known", func() bool {
		return core.OnlineRooms("live", []string{"1"})["1"] == 5
	})

	got, err := core.Refresh(t.Context(), logic.Refresh{Info: info})
	if err != nil || !got.Resync || got.RoomCounts != nil {
		t.Errorf("first: %+v, %v", got, err)
	}
	got, err = core.Refresh(t.Context(), logic.Refresh{
		Info: info, Sessions: []presence.Session{{ID: 9, Mid: 1, Key: "k"}},
		WithRooms: true, Rooms: map[string]int32{"live://1": 2, "live://3": 1},
	})
	if err != nil || got.Resync || got.RoomCounts["live://1"] < 5 || got.RoomCounts["live://2"] != 0 {
		t.Errorf("second: %+v, %v", got, err)
	}
	logictest.Eventually(t, "the counts of both comets are added up", func() bool {
		return core.OnlineRooms("live", []string{"1"})["1"] == 7
	})
	routed, err := core.Route(t.Context(), []presence.Query{{Keys: []string{"k"}}})
	if err != nil || len(routed.Results[0].Locations) != 1 || routed.Results[0].Locations[0].Session != 9 {
		t.Errorf("the session was not restored: %+v, %v", routed, err)
	}

	// Redis loses everything: the next refresh asks for all sessions.
	env.Redis.FlushAll()
	if got, err = core.Refresh(t.Context(), logic.Refresh{Info: info}); err != nil || !got.Resync {
		t.Errorf("after a loss: %+v, %v", got, err)
	}
}
