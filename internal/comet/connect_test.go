package comet

import (
	"context"
	"errors"
	"testing"
)

// dyingLogic breaks off the first Connect.
type dyingLogic struct {
	*testLogic
	calls int // of the one worker
}

func (l *dyingLogic) Connect(ctx context.Context, node Node, items []ConnectItem) ([]ConnectResult, error) {
	if l.calls++; l.calls == 1 {
		return nil, errors.New("connection reset")
	}
	return l.testLogic.Connect(ctx, node, items)
}

// Symptom: when one logic of two was killed, the clients whose auth it had at
// that moment were turned away, though the other one was well. Cause: a failed
// Connect was not repeated; it names the sessions, so a repeat does no harm.
func TestConnectIsRepeatedOnce(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.ConnectWorkers = 1 })
	f.g.logic = &dyingLogic{testLogic: f.logic} // before the first session: the workers sleep
	f.connect(f.buckets[0], 1, token)
	if n := f.g.stats.logicErrors.Value(0); n != 0 {
		t.Errorf("%d calls are counted as failed", n)
	}
}
