package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
)

// away is a device that has handled two of three messages, and whose
// heartbeats will not help.
func (s *shelf) away(t *testing.T) client.Config {
	t.Helper()
	cursors := &client.MemoryCursors{}
	if err := cursors.Save(t.Context(), "u:7", client.Cursor{Epoch: 1, Seq: 2}); err != nil {
		t.Fatal(err)
	}
	s.add("u:7", "a", "b", "c")
	return client.Config{Cursors: cursors, Heartbeat: time.Hour}
}

// Symptom: what had come while a client was away reached it a heartbeat later,
// minutes, when the server could not give it just then. Cause: the refusal was
// not taken for the answer that the client waited for.
func TestAResumeThatIsRefused(t *testing.T) {
	s := newShelf(t)
	s.noResume = true
	s.read(t, s.away(t), false).expect(t, "u:7", []string{"c"})
}

// Symptom: the same, with a long token. Cause: what did not fit into the auth
// packet was waited for all the same.
func TestAResumeThatDoesNotFit(t *testing.T) {
	s := newShelf(t)
	cfg := s.away(t)
	cfg.TokenSource = func(context.Context) (string, error) { return strings.Repeat("x", 4030), nil }
	s.read(t, cfg, false).expect(t, "u:7", []string{"c"})
	s.mu.Lock()
	defer s.mu.Unlock()
	if auth := s.resumed[0]; strings.Contains(auth, "resume") {
		t.Errorf("it fits: %d bytes", len(auth))
	}
}
