package httpapi_test

import (
	"context"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// serverOn is a server that listens nowhere.
func serverOn(t testing.TB, deps logic.Deps) *httpapi.Server {
	t.Helper()
	core, err := logic.New(logic.DefaultConfig(), deps)
	if err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.New(httpapi.DefaultConfig(), httpapi.Deps{Core: core})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func bareServer(t testing.TB) *httpapi.Server {
	return serverOn(t, logic.Deps{Presence: nobody{}, Log: acceptingLog{new([]message.Target)}})
}

// nobody is a presence without anybody, for the fuzzer: it answers at once.
type nobody struct{}

var _ presence.Registry = nobody{}

func (nobody) Connect(_ context.Context, _ presence.Node, s []presence.Session) ([]uint64, error) {
	return make([]uint64, len(s)), nil
}
func (nobody) Disconnect(context.Context, presence.Node, []presence.Session) error { return nil }
func (nobody) Renew(context.Context, presence.Node, []presence.Session) error      { return nil }
func (nobody) Lease(context.Context, presence.NodeInfo, time.Duration) (bool, error) {
	return true, nil
}
func (nobody) Release(context.Context, presence.Node) error       { return nil }
func (nobody) Nodes(context.Context) ([]presence.NodeInfo, error) { return nil, nil }
func (nobody) Rooms(context.Context) (map[string]int32, error)    { return nil, nil }
func (nobody) Ping(context.Context) error                         { return nil }
func (nobody) Locate(_ context.Context, q []presence.Query) (presence.Located, error) {
	return presence.Located{Results: make([][]presence.Location, len(q))}, nil
}
func (nobody) SetRooms(context.Context, presence.Node, map[string]int32, time.Duration) error {
	return nil
}

// acceptingLog takes everything and shows the targets of the last push.
type acceptingLog struct{ targets *[]message.Target }

func (l acceptingLog) Append(_ context.Context, _ message.Message, targets []message.Target) error {
	*l.targets = targets
	return nil
}
func (acceptingLog) Ping(context.Context) error { return nil }
