package comet

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// hungLogic answers nothing about what is stored.
type hungLogic struct{ *testLogic }

func (hungLogic) Sync(ctx context.Context, _ Node, _ SyncQuery) ([]Page, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hungLogic) Publish(ctx context.Context, _ Node, _ []PublishItem) ([]Published, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Symptom: while what logic reads from hung, sessions that asked it for something
// were closed for want of heartbeats, though their clients sent them. Cause: a
// session waits for its answer before its next packet is read, and what waited
// for a worker did so for as long as all before it took to run into their
// deadlines, minutes where many asked.
func TestNobodyWaitsForAHungLogicForLong(t *testing.T) {
	for op, body := range map[wire.Op]string{
		wire.OpSync:    "",
		wire.OpSendMsg: sendBody(`{"to":"u:1","op":1000,"client_msg_id":"c"}`, "hello"),
	} {
		t.Run(fmt.Sprint("op ", op), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, 1, func(c *Config) {
					c.ConnectWorkers, c.ConnectBatch, c.UpstreamWorkers = 1, 1, 1
					c.LogicTimeout = 3 * time.Second
				})
				f.g.logic = hungLogic{f.logic}
				f.g.clock, f.g.born = time.Now, time.Now()
				conns := make([]*testConn, 40) // those at the end of the line would wait for two minutes
				for i := range conns {
					conns[i] = f.connect(f.buckets[0], 2, fmt.Sprintf(`{"mid":%d}`, i+1))
				}
				for _, c := range conns {
					f.send(c, 2, op, 2, body)
				}
				for end := time.Now().Add(3 * f.g.cfg.LogicTimeout); time.Now().Before(end); f.g.Tick() {
					time.Sleep(100 * time.Millisecond)
				}
				synctest.Wait()
				for i, c := range conns {
					if got := c.bodies(t, op+1); len(got) != 1 || c.ended != "" {
						t.Fatalf("session %d: answers %q, ended: %q", i, got, c.ended)
					}
				}
			})
		})
	}
}
