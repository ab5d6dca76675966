package obs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/IBM/sarama"
	kratoslog "github.com/go-kratos/kratos/v2/log"
	"github.com/panjf2000/gnet/v2/pkg/logging"
)

var (
	_ sarama.StdLogger = (*SaramaLogger)(nil)
	_ logging.Logger   = (*GnetLogger)(nil)
)

// lines decodes what a JSON logger wrote.
func lines(t *testing.T, b *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		delete(m, "time")
		all = append(all, m)
	}
	return all
}

func TestLogConfig(t *testing.T) {
	c := DefaultLogConfig()
	if p := c.Problems(); len(p) != 0 {
		t.Fatalf("defaults: %v", p)
	}
	bad := LogConfig{Level: "loud", Format: "xml"}
	if p := bad.Problems(); len(p) != 2 || !strings.HasPrefix(p[0], `level = "loud": `) || !strings.HasPrefix(p[1], `format = "xml": `) {
		t.Fatalf("got %q", p)
	}
	if _, err := bad.Logger(&bytes.Buffer{}); err == nil {
		t.Fatal("an unknown level was accepted")
	}
	for _, c := range []struct{ level, format, want string }{
		{"warn", "text", "level=WARN"}, {"warn", "json", `"level":"WARN"`}, {"INFO", "text", "level=INFO"},
	} {
		var b bytes.Buffer
		l, err := (&LogConfig{Level: c.level, Format: c.format}).Logger(&b)
		if err != nil {
			t.Fatal(err)
		}
		l.Debug("d")
		l.Info("i")
		l.Warn("w")
		if first, _, _ := strings.Cut(b.String(), "\n"); !strings.Contains(first, c.want) {
			t.Errorf("%v: got %s", c, b.String())
		}
	}
}

func TestKratosLogger(t *testing.T) {
	var b bytes.Buffer
	l := KratosLogger(NewLogger(&b, slog.LevelInfo, "json"))
	h := kratoslog.NewHelper(kratoslog.With(l, "module", "http"))
	h.Debug("hidden")
	h.Infow("msg", "listening", "addr", ":80")
	h.Warn("slow")
	_ = l.Log(kratoslog.LevelFatal, kratoslog.DefaultMessageKey, "fatal", "alone")
	_ = l.Log(kratoslog.LevelError, 7, 8)
	want := []map[string]any{
		{"level": "INFO", "msg": "listening", "addr": ":80", "module": "http"},
		{"level": "WARN", "msg": "slow", "module": "http"},
		{"level": "ERROR", "msg": "fatal", "unpaired": "alone"},
		{"level": "ERROR", "msg": "kratos", "7": 8.0},
	}
	if got := lines(t, &b); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

type counted struct{ formatted *int }

func (c counted) String() string { *c.formatted++; return "x" }

func TestSaramaLoggerFormatsOnlyAtDebug(t *testing.T) {
	n := 0
	var b bytes.Buffer
	use := func(level slog.Level) {
		s := NewSaramaLogger(NewLogger(&b, level, "json"))
		s.Print("a", counted{&n})
		s.Printf("b %v\n", counted{&n})
		s.Println("c", counted{&n})
	}
	use(slog.LevelInfo)
	if n != 0 || b.Len() != 0 {
		t.Fatalf("at info: formatted %d times, wrote %s", n, b.String())
	}
	use(slog.LevelDebug)
	var got []any
	for _, l := range lines(t, &b) {
		got = append(got, l["level"], l["text"])
	}
	if want := "[DEBUG ax DEBUG b x DEBUG c x]"; n != 3 || fmt.Sprint(got) != want {
		t.Fatalf("formatted %d times, got %v", n, got)
	}
}

func TestGnetLoggerReturnsFromFatal(t *testing.T) {
	var b bytes.Buffer
	g := NewGnetLogger(NewLogger(&b, slog.LevelDebug, "json"))
	g.Debugf("%d", 1)
	g.Infof("%d", 2)
	g.Warnf("%d", 3)
	g.Errorf("%d", 4)
	g.Fatalf("%d", 5)
	var got []any
	for _, l := range lines(t, &b) {
		got = append(got, l["level"], l["text"])
	}
	if want := "[DEBUG 1 INFO 2 WARN 3 ERROR 4 ERROR 5]"; fmt.Sprint(got) != want {
		t.Fatalf("got %v", got)
	}
}

func TestLimitedWritesOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := NewLimited(NewLogger(&b, slog.LevelInfo, "json"), time.Second)
		for range 5 {
			l.Warn("accept", "cannot accept", "err", "EMFILE")
		}
		l.Error("other key", "is free", slog.Int("n", 1))
		time.Sleep(time.Second - time.Nanosecond) // fake clock
		l.Warn("accept", "cannot accept", "err", "EMFILE")
		time.Sleep(time.Nanosecond)
		l.Warn("accept", "cannot accept", "err", "ENFILE")
		l.Warn("accept", "cannot accept", "err", "ENFILE")
		l.Flush()
		l.Flush() // nothing is left to tell
		want := []map[string]any{
			{"level": "WARN", "msg": "cannot accept", "err": "EMFILE"},
			{"level": "ERROR", "msg": "is free", "n": 1.0},
			{"level": "WARN", "msg": "cannot accept", "err": "ENFILE", "suppressed": 5.0},
			{"level": "WARN", "msg": "cannot accept", "key": "accept", "suppressed": 1.0},
		}
		if got := lines(t, &b); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}

// A caller that puts addresses into keys must not fill the memory, and what it
// floods with is still counted.
func TestLimitedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := NewLimited(NewLogger(&b, slog.LevelInfo, "json"), time.Second)
		const extra = 500
		for i := range maxLimitedKeys + extra {
			l.Warn(fmt.Sprint(i), "storm")
		}
		if n := len(l.keys); n > maxLimitedKeys+1 {
			t.Fatalf("%d keys", n)
		}
		if n := strings.Count(b.String(), "\n"); n != maxLimitedKeys+1 {
			t.Fatalf("%d lines", n)
		}
		b.Reset()
		l.Flush()
		if got := lines(t, &b); len(got) != 1 || got[0]["suppressed"] != float64(extra-1) || got[0]["key"] != sharedKey {
			t.Fatalf("got %v", got)
		}
		time.Sleep(time.Second)
		l.Warn("fresh", "storm")
		if n := len(l.keys); n != 1 {
			t.Fatalf("%d keys after the interval, want the new one only", n)
		}
	})
}
