package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/sqlstore"
)

// storedLoad pushes stored messages, each timeline from one producer, so that
// the order of the accepts is the order of the timeline.
type storedLoad struct {
	accepted atomic.Int64
	retried  atomic.Int64
	mu       sync.Mutex
	want     map[message.Timeline][]string
}

// push sends one message until it is accepted, as a caller does: with one key.
func (l *storedLoad) push(ctx context.Context, hc *http.Client, bases []string, to message.Target, n int) error {
	target := fmt.Sprintf(`{"mid":%d}`, to.Mid)
	if to.Kind == message.Room {
		target = fmt.Sprintf(`{"room":%q}`, to.Name)
	}
	tl := to.Timeline()
	body := fmt.Sprintf("%s|%d", tl, n)
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, bases[(n+try)%len(bases)]+"/v1/push",
			strings.NewReader(fmt.Sprintf(`{"op":1000,"kind":"notice","store":true,"body":%q,"targets":[%s]}`, body, target)))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", body)
		status, answer, err := do(hc, req)
		if err == nil && status == http.StatusAccepted {
			break
		}
		if err == nil && status < 500 || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%s: %d %s", body, status, answer), err, ctx.Err())
		}
		l.retried.Add(1)
	}
	l.accepted.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want[tl] = append(l.want[tl], body)
	return nil
}

// check compares the archive with what was accepted: everything once, dense,
// in order.
func (l *storedLoad) check(ctx context.Context, archive *sqlstore.Store) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tl, want := range l.want {
		entries, err := archive.Read(ctx, 0, timeline.ArchiveRead{Timeline: tl, To: 1 << 40, Entries: 2 * len(want), Bytes: 1 << 24})
		if err != nil {
			return err
		}
		got := make([]string, len(entries))
		for i, e := range entries {
			got[i] = string(e.Message.Body)
			if e.Seq != uint64(i+1) || e.Gone != timeline.Here {
				return fmt.Errorf("%s: row %d has seq %d, gone %d", tl, i, e.Seq, e.Gone)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s: %d rows, %d accepted: %v", tl, len(got), len(want), got)
		}
	}
	return nil
}

// Stored messages while a job is killed and started again, and Redis loses
// everything: each is in the archive once, with dense numbers, in order.
func TestStoredMessagesSurviveAJobAndRedis(t *testing.T) {
	for _, how := range []string{"restarted empty", "flushed"} {
		t.Run(how, func(t *testing.T) {
			c := newCluster(t)
			dsn := testdeps.Database(testdeps.MariaDB(t))
			c.settings["logic"] = []string{"archive.dsn=" + dsn}
			logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
			c.start("comet", "comet-1")
			jobs := []*daemon{c.start("job", "job-1"), c.start("job", "job-2")}
			hc := httpClient(t)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			bases := []string{"http://" + logics[0].addrs["http"], "http://" + logics[1].addrs["http"]}

			var targets []message.Target
			for mid := range int64(50) {
				targets = append(targets, message.ToUser(mid+1))
			}
			for room := range 5 {
				targets = append(targets, message.ToRoom(fmt.Sprintf("live://%d", room+1)))
			}
			const total, producers = 1000, 11
			l := &storedLoad{want: map[message.Timeline][]string{}}
			// First until both jobs work on partitions of theirs.
			warm := 0
			waitFor(t, 3*time.Minute, func() error {
				for _, to := range targets {
					if err := l.push(ctx, hc, bases, to, warm); err != nil {
						t.Fatal(err)
					}
				}
				warm++
				for _, j := range jobs {
					if n, err := j.metric(ctx, hc, "perseid_archive_rows_total", `result="written"`); err != nil || n == 0 {
						return fmt.Errorf("%s has archived %g rows, %v", j.name, n, err)
					}
				}
				return nil
			})
			l.accepted.Store(0)
			failed := make(chan error, producers)
			for p := range producers {
				go func() {
					var err error
					for i := 0; i < (total+producers-1)/producers && err == nil; i++ {
						if n := i*producers + p; n < total {
							err = l.push(ctx, hc, bases, targets[n%len(targets)], warm+i/(len(targets)/producers))
						}
					}
					failed <- err
				}()
			}
			at := func(n int64, do func()) {
				t.Helper()
				waitFor(t, 3*time.Minute, func() error {
					if got := l.accepted.Load(); got < n {
						return fmt.Errorf("%d of %d accepted, %d retries", got, n, l.retried.Load())
					}
					return nil
				})
				do()
			}
			at(250, func() {
				if how == "flushed" {
					flush(t, c.redis.Addr)
					return
				}
				c.redis.Kill()
				c.redis.Restart()
			})
			at(600, func() {
				if err := jobs[0].Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				jobs[0] = c.start("job", "job-1")
			})
			for range producers {
				if err := <-failed; err != nil {
					t.Fatal(err)
				}
			}
			began, inAll := time.Now(), 0
			for _, want := range l.want {
				inAll += len(want)
			}
			archive, err := sqlstore.Open(ctx, archiveAt(dsn), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = archive.Close() }()
			waitFor(t, 3*time.Minute, func() error { return l.check(ctx, archive) })
			rewinds := 0.0
			for _, j := range jobs {
				n, err := j.metric(ctx, hc, "perseid_rewinds_total")
				stopped, err2 := j.metric(ctx, hc, "perseid_partitions_stopped")
				if err = errors.Join(err, err2); err != nil || stopped > 0 {
					t.Errorf("%s: %g partitions stopped, %v", j.name, stopped, err)
				}
				rewinds += n
			}
			if rewinds == 0 {
				t.Error("the job that was not killed did not notice the loss")
			}
			t.Logf("%d accepted in %d timelines, %d retries, all archived %v after the last, %g rewinds",
				inAll, len(l.want), l.retried.Load(), time.Since(began).Round(time.Millisecond), rewinds)
		})
	}
}

func archiveAt(dsn string) sqlstore.Config {
	cfg := sqlstore.DefaultConfig()
	cfg.DSN = dsn
	return cfg
}

func flush(t *testing.T, addr string) {
	t.Helper()
	conn, err := redis.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Do("FLUSHALL"); err != nil {
		t.Fatal(err)
	}
}
