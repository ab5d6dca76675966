package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Jobs and logics end at the points of their work where it hurts most, between
// what is done and what is said about it: each life of them until it comes to
// one. Redis loses everything now and then. The oracle finds nothing wrong.
func TestStoredMessagesUnderFailPoints(t *testing.T) {
	cfg := chaosSettings(t)
	deaths := 12
	cfg.kafka, cfg.mariadb = 0, 0
	if cfg.long {
		deaths, cfg.report = 100, strings.Replace(cfg.report, ".md", "-failpoints.md", 1)
	}
	x := newChaos(t, cfg, build(t, "failpoint"))
	x.begin()
	t.Setenv("PERSEID_FAIL", "job.before_complete:0.001,job.*:0.02,logic.after_accept:0.001,logic.*:0.01")
	x.fleet.kill("job", 0, 1) // those that come are armed
	x.fleet.kill("logic", 0, 1)
	died := 0
	// The fail points are hit by chance; this is the one that the test is for.
	between := func() int { return x.done["killed at job.after_append"] + x.done["killed at job.after_archive"] }
	waitFor(t, time.Duration(deaths)*20*time.Second, func() error {
		for _, kind := range []string{"job", "logic"} {
			for i, s := range x.fleet.slots[kind] {
				if !s.Ended() {
					continue
				}
				_ = s.Wait() // says that it was killed
				_, point, found := strings.Cut(s.log.tail(200), "fail point ")
				if !found {
					t.Fatalf("%s ended otherwise:\n%s", s.name, s.log.tail(4000))
				}
				point = strings.TrimSpace(point)
				x.done["killed at "+point]++
				x.say("%s is killed at %s; %d accepted", s.name, point, x.load.accepted.Load())
				if died++; died%7 == 0 {
					x.do("Redis flushed")
				}
				x.fleet.slots[kind][i] = x.fleet.launch(kind, i)
			}
		}
		if died < deaths || between() == 0 {
			return fmt.Errorf("%d of %d deaths, %d of jobs between append and commit", died, deaths, between())
		}
		return nil
	})
	t.Setenv("PERSEID_FAIL", "")
	for _, kind := range []string{"job", "logic"} {
		for i, s := range x.fleet.slots[kind] {
			s.Kill()
			x.fleet.slots[kind][i] = x.fleet.launch(kind, i)
		}
	}
	x.fleet.settle()
	x.judge()
}
