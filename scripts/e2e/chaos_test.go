package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/scripts/e2e/oracle"
)

// Stored messages under faults: whatever is killed, restarted, emptied or away,
// each accepted message reaches every application once, in one order, under a
// position that never changes. The oracle judges it by C1 to C6.
func TestStoredMessagesUnderFaults(t *testing.T) {
	x := newChaos(t, chaosSettings(t), build(t))
	x.begin()
	x.run()
	if x.cfg.redis > 0 && x.redis.lost == 0 {
		t.Error("no failover has lost a write: they did not bite")
	}
	x.judge()
}

// newChaos starts the servers, the daemons of bin and the clients, and waits
// until everybody stands in their timelines.
func newChaos(t *testing.T, cfg chaosConfig, bin string) *chaos {
	t.Helper()
	t.Logf("%v", cfg)
	pair := newRedisPair(t)
	x := &chaos{t: t, cfg: cfg, r: rand.New(rand.NewPCG(uint64(cfg.seed), 0)), redis: pair, done: map[string]int{}}
	c := &cluster{t: t, redis: pair.servers[0], discovery: testdeps.Discovery(t), topic: testdeps.Topic(t), bin: bin}
	if cfg.kafka > 0 {
		x.kafka = testdeps.KafkaServer(t)
		c.kafka = x.kafka.Addr
	} else {
		c.kafka = testdeps.Kafka(t)
	}
	sqlAddr := ""
	if cfg.mariadb > 0 {
		x.mariadb = testdeps.MariaDBServer(t)
		sqlAddr = x.mariadb.Addr
	} else {
		sqlAddr = testdeps.MariaDB(t)
	}
	dsn := testdeps.Database(sqlAddr)
	var err error
	if x.db, err = sql.Open("mysql", fmt.Sprintf("root@tcp(%s)%s", sqlAddr, dsn[strings.LastIndexByte(dsn, '/'):])); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.db.Close() })
	host := ownHost()
	c.settings = map[string][]string{
		"logic": {"archive.dsn=" + dsn, "redis.addr=" + pair.front.addr(), "http.addr=" + host, "grpc.addr=" + host, "admin.addr=" + host},
		"comet": {"comet.tops_period=3s", "listen.tcp=" + host, "listen.websocket=" + host, "grpc.addr=" + host, "admin.addr=" + host},
		"job":   {"admin.addr=" + host},
	}
	t.Cleanup(func() {
		if t.Failed() && x.fleet != nil {
			for _, list := range x.fleet.slots {
				for _, d := range list {
					t.Logf("--- log of %s\n%s", d.name, d.log.tail(6000))
				}
			}
		}
	})
	x.fleet = newFleet(c)
	x.clients = newFollowers(t, cfg, x.fleet.any("comet"))
	x.load = newChaosLoad(t, cfg, x.fleet.any("logic"))
	x.clients.waitJoined(t, 2*time.Minute)
	x.load.warm()
	waitFor(t, time.Minute, func() error { return x.clients.missing(x.load.counts()) })
	return x
}

func (x *chaos) begin() {
	x.began = time.Now()
	x.load.start(x.clients)
}

// judge ends the load, waits until everything has arrived, asks the oracle, and
// writes the report.
func (x *chaos) judge() {
	t := x.t
	t.Helper()
	x.say("all faults are over; %d accepted, %d retries", x.load.accepted.Load(), x.load.retries.Load())
	x.load.more(t, 50, 2*time.Minute) // it works again
	x.load.finish(t, 2*time.Minute)
	loaded := time.Since(x.began)
	x.say("the last one is accepted")
	healed := x.converge(3 * time.Minute)
	x.say("everybody has everything: %v", healed)
	x.clients.close()

	report := oracle.Check(x.collect())
	for _, v := range report.Violations {
		t.Errorf("%s: %s", v.Rule, v.What)
	}
	if healed != nil {
		t.Error(healed)
	}
	for _, text := range x.load.refused {
		t.Errorf("refused: %s", text)
	}
	reconnects, stopped := 0, x.stopped(t)
	for _, f := range x.clients.all {
		reconnects += f.connects - 1
		for _, err := range f.ended {
			t.Errorf("%s: Run ended: %v", f.name, err)
		}
	}
	if stopped > 0 {
		t.Errorf("%g partitions are stopped", stopped)
	}
	t.Logf("%+v; %d requests, %d retries, %d reconnects; %v", report.Counts, x.load.accepted.Load(), x.load.retries.Load(), reconnects, x.done)
	if x.cfg.report != "" {
		text := x.report(report, loaded, reconnects, stopped)
		if err := errors.Join(os.MkdirAll(filepath.Dir(x.cfg.report), 0o755), os.WriteFile(x.cfg.report, []byte(text), 0o644)); err != nil {
			t.Error(err)
		}
	}
}

// converge waits until every application and SQL have what was accepted. A
// message may be with an application before its row is written.
func (x *chaos) converge(within time.Duration) error {
	accepted, total := x.load.counts(), 0
	for _, n := range accepted {
		total += n
	}
	deadline := time.Now().Add(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := x.clients.missing(accepted)
		if err == nil {
			rows := 0
			if err = x.db.QueryRowContext(x.t.Context(), "SELECT COUNT(*) FROM message").Scan(&rows); err == nil && rows < total {
				err = fmt.Errorf("%d rows of %d are in SQL", rows, total)
			}
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// stopped counts the partitions that the jobs have given up.
func (x *chaos) stopped(t *testing.T) (sum float64) {
	t.Helper()
	for _, d := range x.fleet.slots["job"] {
		n, err := d.metric(t.Context(), httpClient(t), "perseid_partitions_stopped")
		if err != nil {
			t.Error(err)
		}
		sum += n
	}
	return sum
}

// collect gathers what the oracle judges.
func (x *chaos) collect() *oracle.Run {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), time.Minute)
	defer cancel()
	run := &oracle.Run{Sent: x.load.sent}
	for _, f := range x.clients.all {
		run.Clients = append(run.Clients, f.seen)
	}
	if err := errors.Join(fromSQL(ctx, run, x.db), fromRedis(ctx, run, x.redis.servers[x.redis.master].Addr, x.cfg)); err != nil {
		x.t.Fatal(err)
	}
	return run
}

// fromSQL reads the tables by themselves, without the product's code.
func fromSQL(ctx context.Context, run *oracle.Run, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT tl, epoch, seq, msg_id FROM message")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r oracle.Row
		var id []byte
		if err := rows.Scan(&r.Timeline, &r.Epoch, &r.Seq, &id); err != nil {
			return err
		}
		r.ID = oracle.ID(id)
		run.Rows = append(run.Rows, r)
	}
	cursors, err := db.QueryContext(ctx, "SELECT mid, tl, epoch, acked, seen FROM user_cursor")
	if err != nil {
		return errors.Join(err, rows.Err())
	}
	defer func() { _ = cursors.Close() }()
	for cursors.Next() {
		u := oracle.Cursor{Where: "SQL"}
		if err := cursors.Scan(&u.Mid, &u.Timeline, &u.Epoch, &u.Acked, &u.Read); err != nil {
			return err
		}
		run.Cursors = append(run.Cursors, u)
	}
	return errors.Join(rows.Err(), cursors.Err())
}

// fromRedis reads the keys by themselves: meta, log and cursors.
func fromRedis(ctx context.Context, run *oracle.Run, addr string, cfg chaosConfig) error {
	conn, err := redis.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for _, tl := range cfg.timelines() {
		meta, err := redis.StringMap(conn.Do("HGETALL", "tl:{"+tl+"}:meta"))
		if err != nil {
			return err
		}
		if len(meta) == 0 {
			continue
		}
		w := oracle.Window{Timeline: tl, Entries: map[uint64]oracle.ID{}}
		epoch, err1 := strconv.ParseUint(meta["epoch"], 10, 32)
		top, err2 := strconv.ParseUint(meta["top"], 10, 64)
		log, err3 := redis.StringMap(conn.Do("HGETALL", "tl:{"+tl+"}:log"))
		if err := errors.Join(err1, err2, err3); err != nil {
			return fmt.Errorf("%s: %w", tl, err)
		}
		w.Epoch, w.Top = uint32(epoch), top
		for field, value := range log {
			seq, err := strconv.ParseUint(field, 10, 64)
			parts := strings.SplitN(value, " ", 3) // generation, offset, and version, gone, id, ...
			if err != nil || len(parts) != 3 || len(parts[2]) < 18 {
				return fmt.Errorf("%s: entry %q is %q", tl, field, value)
			}
			w.Entries[seq] = oracle.ID([]byte(parts[2][2:18]))
		}
		run.Windows = append(run.Windows, w)
	}
	for mid := range cfg.inboxes {
		cursors, err := redis.StringMap(conn.Do("HGETALL", fmt.Sprintf("cur:{u:%d}", mid+1)))
		if err != nil {
			return err
		}
		for tl, value := range cursors {
			u := oracle.Cursor{Where: "Redis", Mid: int64(mid + 1), Timeline: tl}
			if _, err := fmt.Sscan(value, &u.Epoch, &u.Acked, &u.Read); err != nil {
				return fmt.Errorf("cursor of %d in %s: %q: %w", u.Mid, tl, value, err)
			}
			run.Cursors = append(run.Cursors, u)
		}
	}
	return nil
}

// report is the run for people.
func (x *chaos) report(r oracle.Report, loaded time.Duration, reconnects int, stopped float64) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	verdict := "C1 to C6 hold."
	if len(r.Violations) > 0 || x.t.Failed() {
		verdict = "**They do not hold**; see the violations."
	}
	line("# Stored messages under faults\n\nWritten by `make e2e` (scripts/e2e, %s). %s\n", x.t.Name(), verdict)
	line("Load: %v. %.0f s under load.\n", x.cfg, loaded.Seconds())
	line("| what | count |\n|---|---|")
	for _, row := range []struct {
		what  string
		count any
	}{
		{"requests accepted", x.load.accepted.Load()},
		{"accepted messages, counted per timeline", r.Accepted},
		{"requests that ended without an answer", r.Unanswered},
		{"attempts that were repeated", x.load.retries.Load()},
		{"timelines", r.Timelines},
		{"rows in SQL", r.Rows},
		{"deliveries to applications", r.Deliveries},
		{"stored pushes on the wires", r.WireSeen},
		{"of these a position again on one client's wires (C7)", r.WireRepeats},
		{"reconnects of the clients", reconnects},
		{"bytes of acknowledged writes that failovers of Redis lost", x.redis.lost},
		{"lost (C1)", r.Lost},
		{"never sent (C1)", r.Unsent},
		{"duplicates to the application (C2)", r.AppDuplicates},
		{"messages twice in a timeline (C2)", r.RowDuplicates},
		{"renumbered (C4)", r.Renumbered},
		{"inversions (C3, C5)", r.Inversions},
		{"gaps and skips (C6)", r.Gaps},
		{"cursors or tops beyond the rows (C6)", r.BeyondTop},
		{"partitions stopped", stopped},
		{"starts of daemons", x.fleet.starts},
		{"slowest of them", x.fleet.slow.Round(time.Millisecond)},
	} {
		line("| %s | %v |", row.what, row.count)
	}
	line("\n| fault | times |\n|---|---|")
	var faults []string
	for fault := range x.done {
		faults = append(faults, fault)
	}
	slices.Sort(faults)
	for _, fault := range faults {
		line("| %s | %d |", fault, x.done[fault])
	}
	if len(r.Violations) > 0 {
		line("\n## Violations\n")
		for _, v := range r.Violations {
			line("* %s: %s", v.Rule, v.What)
		}
	}
	line("\n## What was done when\n\n```\n%s\n```", strings.Join(x.story, "\n"))
	return b.String()
}
