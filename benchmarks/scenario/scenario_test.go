package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// run runs a scenario and reads its report.
func run(t *testing.T, g *goim, name string, flags ...string) (*Report, int) {
	t.Helper()
	var out, errs bytes.Buffer
	code := command(t.Context(), append(append([]string{name}, g.flags()...), flags...), &out, &errs, testChild)
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("code %d: %v\n%s", code, err, errs.String())
	}
	if t.Failed() || code != 0 {
		t.Log(errs.String())
	}
	return &r, code
}

// clean checks that a step lost nothing and counts what is expected.
func clean(t *testing.T, st *Step) {
	t.Helper()
	if st.Lost+st.Duplicates+st.Inversions > 0 || st.Delivered != st.Expected || st.Accepted == 0 || len(st.Failed) > 0 {
		t.Errorf("%s: %+v", st.Name, st)
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "room", "-rate", "50,0", "-procs", "2", "-repeat", "2")
	if code != 0 || len(r.Steps) != 4 || len(r.Connects) != 1 || r.Connects[0].Ready != 40 {
		t.Fatalf("code %d, %+v", code, r)
	}
	for i := range r.Steps {
		st := &r.Steps[i]
		clean(t, st)
		if st.Expected != 40*st.Accepted || st.Classes[0].Latency.Count != 10*st.Accepted {
			t.Errorf("%+v", st)
		}
		if st.AskedPerSec == 50 && st.Accepted != 20 {
			t.Errorf("%d of 20 messages", st.Accepted)
		}
		if len(st.Processes) != 1 || st.Processes[0].RSSBytes == 0 || st.Processes[0].PSSBytes == 0 || st.Processes[0].Threads == 0 {
			t.Errorf("%+v", st.Processes)
		}
	}
	if r.Commit != "c0ffee" || r.Machine.Cores == 0 || r.Machine.MemoryBytes == 0 || r.Machine.Kernel == "" || r.Settings["conns"] != "40" || r.Settings["rate"] != "50,0" {
		t.Errorf("%+v %+v", r.Machine, r.Settings)
	}
	if _, ok := r.Medians["50 messages/s: room p99 ms"]; !ok {
		t.Errorf("%v", r.Medians)
	}
}

// A server that drops is found out, by class and per cent.
func TestLossIsReported(t *testing.T) {
	t.Parallel()
	g := newGoim(t)
	g.drop = func(mid int64, message int) bool { return mid == 7 && message >= 15 || mid == 9 && message == 3 }
	r, code := run(t, g, "room", "-rate", "50")
	st := &r.Steps[0]
	if code != 0 || st.Lost != 6 || st.Delivered != st.Expected-6 || st.LostPercent != 0.75 {
		t.Errorf("code %d: lost %d (%g %%) of %d, delivered %d", code, st.Lost, st.LostPercent, st.Expected, st.Delivered)
	}
}

func TestOtherScenarios(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"rooms":           {"-rooms", "5", "-rate", "50"},
		"mixed":           {"-rooms", "4", "-members", "3", "-rate", "20", "-small-rate", "40"},
		"unicast":         {"-rate", "100,0", "-batch", "3"},
		"unicast to keys": {"-route", "keys", "-rate", "100,0", "-batch", "3"},
		"all":             {"-rate", "20"},
		"limit":           {"-rate", "50,0", "-writers", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario, _, _ := strings.Cut(name, " ")
			r, code := run(t, newGoim(t), scenario, flags...)
			if code != 0 || len(r.Steps) == 0 {
				t.Fatalf("code %d, %+v", code, r)
			}
			for i := range r.Steps {
				clean(t, &r.Steps[i])
			}
			switch scenario {
			case "mixed":
				if st := &r.Steps[1]; st.Expected != 8*40+16*3 || st.Classes[0].Delivered != 16*3 || r.Results["small rooms' p99 with 20 messages/s to the big one / alone"] <= 0 {
					t.Errorf("%v %+v", r.Results, st)
				}
			case "unicast":
				if st := &r.Steps[0]; st.Accepted != 40 || st.Targets != 40*3-2*2 { // the last addressee is one user alone
					t.Errorf("%d accepted, %d targets", st.Accepted, st.Targets)
				}
			case "limit":
				if l := r.Steps[0].Limit; l == nil || l.Writes != 20*40 || l.CPUPerMillion <= 0 || l.RoundTime.Count != 20 {
					t.Errorf("%+v", l)
				}
			}
		})
	}
}

func TestRoomBesideTheBareLoop(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "room", "-limit", "-rate", "50", "-repeat", "2")
	if code != 0 || len(r.Steps) != 4 || r.Steps[0].Limit == nil || r.Steps[1].Limit != nil {
		t.Fatalf("code %d, %+v", code, r)
	}
	if v := r.Results["50 messages/s: p99 / bare round p50"]; v <= 0 {
		t.Errorf("%v", r.Results)
	}
}

// Runs minutes apart differ by more than the transports do, so they take turns.
func TestTransportsTakeTurns(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "room", "-transport", "tcp,ws", "-limit", "-rate", "50", "-repeat", "2")
	if code != 0 || len(r.Connects) != 8 {
		t.Fatalf("code %d, %+v", code, r)
	}
	var names []string
	for i := range r.Steps {
		clean(t, &r.Steps[i])
		names = append(names, fmt.Sprint(r.Steps[i].Name, ", ", r.Steps[i].Repeat))
	}
	if want := []string{
		"bare loop, 50 rounds/s, tcp, 1", "50 messages/s, tcp, 1", "bare loop, 50 rounds/s, ws, 1", "50 messages/s, ws, 1",
		"bare loop, 50 rounds/s, ws, 2", "50 messages/s, ws, 2", "bare loop, 50 rounds/s, tcp, 2", "50 messages/s, tcp, 2",
	}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	for _, name := range []string{"50 messages/s: ws p99 / tcp", "50 messages/s, ws: p99 / bare round p50", "50 messages/s, tcp: p99 / bare round p50"} {
		if r.Results[name] <= 0 {
			t.Errorf("%q: %v", name, r.Results)
		}
	}
}

func TestRatios(t *testing.T) {
	t.Parallel()
	step := func(name string, repeat int, p99, cpu float64) Step {
		st := Step{Name: name, Repeat: repeat, Transport: name[strings.LastIndexByte(name, ' ')+1:], AskedPerSec: 10, Classes: []ClassResult{{Latency: Latency{P50: p99 / 2, P99: p99}}}}
		if strings.HasPrefix(name, "bare") {
			st.Limit = &LimitResult{CPUPerMillion: cpu, RoundTime: Latency{P50: p99, P99: 2 * p99}}
		} else {
			st.Processes = []ProcessUse{{Name: "comet-1", CPUPerMillion: cpu}, {Name: "comet-2", CPUPerMillion: cpu}, {Name: "job", CPUPerMillion: 100}}
		}
		return st
	}
	b := bench{report: &Report{Steps: []Step{
		step("bare loop, 10 rounds/s, tcp", 1, 10, 4), step("10 messages/s, tcp", 1, 15, 3),
		step("bare loop, 10 rounds/s, ws", 1, 20, 5), step("10 messages/s, ws", 1, 18, 6),
		step("10 messages/s, ws", 2, 30, 12), step("10 messages/s, tcp", 2, 15, 3), // no bare loop
	}}}
	b.compare()
	want := map[string]float64{
		"10 messages/s, tcp: comet CPU per delivery / bare CPU per write": 1.5, "10 messages/s, tcp: p99 / bare round p50": 1.5, "10 messages/s, tcp: p99 / bare round p99": 0.75,
		"10 messages/s, ws: comet CPU per delivery / bare CPU per write": 2.4, "10 messages/s, ws: p99 / bare round p50": 0.9, "10 messages/s, ws: p99 / bare round p99": 0.45,
		"10 messages/s: ws comet CPU / tcp": 3, "10 messages/s: ws p50 / tcp": 1.6, "10 messages/s: ws p99 / tcp": 1.6,
	}
	if !maps.Equal(b.report.Results, want) {
		t.Errorf("%v, want %v", b.report.Results, want)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "connect", "-repeat", "2")
	if code != 0 || len(r.Connects) != 2 || r.Connects[1].Auth.Count != 40 || r.Results["connections/s"] <= 0 || len(r.Results) != 1 {
		t.Errorf("code %d, %+v", code, r)
	}
	// Beside the bare loop of each repeat.
	r, code = run(t, newGoim(t), "connect", "-repeat", "2", "-limit")
	if code != 0 || len(r.Connects) != 4 || r.Connects[2].Name != "connect to the bare loop" || r.Connects[2].Processes[0].Name != "bare" {
		t.Fatalf("code %d, %+v", code, r)
	}
	all := []float64{r.Connects[1].PerSecond / r.Connects[0].PerSecond, r.Connects[3].PerSecond / r.Connects[2].PerSecond}
	if got, want := r.Results["connections/s / bare"], (all[0]+all[1])/2; math.Abs(got-want) > 0.001 || r.Results["bare loop: connections/s"] <= 0 {
		t.Errorf("%v, want a ratio of %g", r.Results, want)
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "idle", "-heartbeat", "100ms", "-duration", "2s")
	if code != 0 || len(r.Steps) != 1 || r.Steps[0].Idle == nil {
		t.Fatalf("code %d, %+v", code, r)
	}
	if idle := r.Steps[0].Idle; idle.Conns != 40 || idle.Echoes < 40 || idle.TotalPerConn["goim"] <= 0 {
		t.Errorf("%+v", idle)
	} else if r.Results["goim: bytes per connection"] != idle.ResidentPerConn["goim"] || r.Results["goim: cores"] != idle.CoresByName["goim"] {
		t.Errorf("%v", r.Results)
	}
}

func TestChurn(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "churn", "-churners", "10", "-churn", "50", "-rate", "50", "-duration", "2s")
	if code != 0 || len(r.Steps) != 2 {
		t.Fatalf("code %d, %+v", code, r)
	}
	for i := range r.Steps {
		if c := &r.Steps[i].Classes[0]; c.Lost+c.Duplicates+c.Inversions > 0 || c.Delivered != 40*100 {
			t.Errorf("%+v", c)
		}
	}
	if c := &r.Steps[1].Classes[1]; c.Churned < 10 || c.Duplicates+c.Inversions > 0 {
		t.Errorf("%+v", c)
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	r, code := run(t, newGoim(t), "slow", "-slow", "5", "-rate", "100", "-timed", "5")
	if code != 0 || len(r.Steps) != 2 {
		t.Fatalf("code %d, %+v", code, r)
	}
	if c := r.Steps[1].Classes; len(c) != 3 || c[0].Conns != 36 || c[0].Lost > 0 || c[1].Conns != 2 || c[1].Lost != 80 {
		t.Errorf("%+v", c)
	}
}

// notesOfTheRun are without the one about this machine's route.
func notesOfTheRun(r *Report) []string {
	return slices.DeleteFunc(slices.Clone(r.Notes), func(n string) bool { return strings.HasPrefix(n, "the route to ") })
}

// A server that does not answer ends a run in time, with a report that says so.
func TestTimeout(t *testing.T) {
	t.Parallel()
	g := newGoim(t)
	g.silent = true
	began := time.Now()
	r, code := run(t, g, "room", "-timeout", "1s")
	notes := notesOfTheRun(r)
	if code != 1 || time.Since(began) > time.Minute || len(notes) != 1 || !strings.Contains(notes[0], "-timeout 1s") {
		t.Errorf("code %d after %s: %v", code, time.Since(began), r.Notes)
	}
}

// So does the end of its context, in the middle of a step.
func TestCancel(t *testing.T) {
	t.Parallel()
	g := newGoim(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.drop = func(int64, int) bool { cancel(); return false }
	began := time.Now()
	var out, errs bytes.Buffer
	code := command(ctx, append(append([]string{"room"}, g.flags()...), "-duration", "10m"), &out, &errs, testChild)
	if code != 1 || time.Since(began) > 2*time.Minute {
		t.Errorf("code %d after %s: %s", code, time.Since(began), errs.String())
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for flags, want := range map[string]string{
		"":                                               "Usage",
		"dance":                                          "unknown scenario",
		"room":                                           "-tcp: no address",
		"room -tcp 10.0.0.1:3 -http :1":                  "not a loopback",
		"room -tcp x -http :1":                           "IP:port",
		"room -tcp :1 -http :1 -body 3":                  "-body 3",
		"room -tcp :1 -http :1 -rate -3":                 "rate",
		"room -tcp :1 -http :1 -pid a=0":                 "no process",
		"room -tcp :1 -http :1 -duration 0s":             "-duration",
		"room -tcp :1 -http :1 more":                     "unexpected argument",
		"limit -procs 0":                                 "-procs 0",
		"room -transport tcp,ws -tcp :1 -http :1":        "-ws: no address",
		"unicast -transport tcp,ws -tcp :1 -ws :1":       "allowed is tcp or ws",
		"room -transport ws,tcp -tcp :1 -ws :1 -http :1": "for room also tcp,ws",
		"unicast -results=false -tcp :1 -http :1":        "-route v1",
		"room -profile /nowhere -tcp :1 -http :1":        "a folder that is there",
		"room -o /nowhere/r.json -tcp :1 -http :1":       "-o \"/nowhere/r.json\"",
		"room -o / -tcp :1 -http :1":                     "-o \"/\"",
		"room -rate NaN -tcp :1 -http :1":                "\"NaN\" is no rate",
		"room -max-slow NaN -tcp :1 -http :1":            "-max-slow NaN: allowed is 0 to 1",
		"room -churn -5 -tcp :1 -http :1":                "-churn -5: allowed is 0 to 10000000",
		"room -body 70000 -tcp :1 -http :1":              "-body 70000: allowed is 12 to 60000",
		"room -conns 1000000000 -tcp :1 -http :1":        "-conns 1000000000: allowed is 1 to 10000000",
		"room -publishers 1000 -tcp :1 -http :1":         "-publishers 1000: allowed is 1 to 256",
		"room -heartbeat -5s -tcp :1 -http :1":           "-heartbeat -5s: allowed is 0s or more",
		"room -duration 3 -tcp :1 -http :1":              "times are such as",
		"room -ws [::1]:1 -http :1":                      "-tcp: no address; -transport is tcp",
		"room -tcp :1 -http http://127.0.0.1:1":          "-http \"http://127.0.0.1:1\": allowed is IP:port",
		"mixed -rooms 10000 -members 10000 -tcp :1":      "-rooms 10000 -members 10000",
		"churn -churners 0 -tcp :1 -http :1":             "-churners 0",
		"slow -conns 2 -tcp :1 -http :1":                 "-conns 2: allowed is more than the 1 that stop",
		"capacity -rate 10,20 -tcp :1 -http :1":          "-rate 10,20: allowed is one rate",
		"capacity -rate 0 -tcp :1 -http :1":              "-rate 0: allowed is one rate",
		"unicast -first-mid 0 -tcp :1 -http :1":          "-first-mid 0",
	} {
		var out, errs bytes.Buffer
		if code := command(t.Context(), strings.Fields(flags), &out, &errs, testChild); code != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: code %d, %s", flags, code, errs.String())
		}
	}
}

// Symptom: a run whose pushes all failed took its whole time and ended as if it
// had measured something; what failed stood in the last column of the table.
// Cause: nobody looked whether anything was accepted.
func TestNothingToMeasure(t *testing.T) {
	t.Parallel()
	g := newGoim(t)
	file := filepath.Join(t.TempDir(), "before.json")
	if err := os.WriteFile(file, []byte("a report"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(flags ...string) string {
		var out, errs bytes.Buffer
		args := append(append([]string{"room"}, g.flags()...), "-conns", "4", "-duration", "100ms", "-settle", "100ms", "-o", file)
		if code := command(t.Context(), append(args, flags...), &out, &errs, testChild); code != 1 {
			t.Errorf("%v: code %d: %s", flags, code, errs.String())
		}
		return errs.String()
	}
	if told := run("-http", "127.0.0.1:1"); !strings.Contains(told, "-http: dial tcp 127.0.0.1:1") {
		t.Errorf("nobody listens: %s", told)
	}
	if told := run("-admin", "comet=127.0.0.1:1"); !strings.Contains(told, "-admin comet: dial tcp 127.0.0.1:1") {
		t.Errorf("nobody listens: %s", told)
	}
	if told := run("-tcp", "127.0.0.1:1"); !strings.Contains(told, "only 0 of 4 connections to 127.0.0.1:1 got ready") || !strings.Contains(told, "refused (") {
		t.Errorf("nobody listens: %s", told)
	}
	if text, _ := os.ReadFile(file); string(text) != "a report" {
		t.Errorf("a run that measured nothing replaced the report: %.60s", text)
	}
	g.refuse = true
	if told := run(); !strings.Contains(told, "no push to -http "+g.http.Listener.Addr().String()+" was accepted: status 500") {
		t.Errorf("no push was accepted: %s", told)
	}
}

// Symptom: -o replaced a device or a link with a plain file.
// Cause: the report is renamed to its name when it is whole.
func TestReportFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &Report{Scenario: "room"}
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("file", link)); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteFile(link); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(file); !bytes.Contains(text, []byte(`"scenario": "room"`)) {
		t.Errorf("where the link leads is %q", text)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(pipe, unix.O_RDWR, 0) // so that the writer need not wait for a reader
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := r.WriteFile(pipe); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe is %v now, %v", info.Mode(), err)
	}
	// What cannot be written leaves nothing behind.
	r.Results = map[string]float64{"ratio": math.NaN()}
	if err := r.WriteFile(file); err == nil {
		t.Error("NaN was written")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The form of the report is a contract: charts and comparisons read it.
func TestReportGolden(t *testing.T) {
	t.Parallel()
	r := Report{
		Scenario: "room", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), TookSeconds: 12.5, Command: []string{"perseid", "bench", "room"}, Commit: "c0ffee",
		Machine:  Machine{CPU: "a CPU", Cores: 2, MemoryBytes: 1 << 30, Kernel: "6.1", Go: "go1.26", OpenFiles: 20000, TCPMem: "1 2 3", Backlog: 1000, Autogroup: true, Congestion: "cubic"},
		Settings: map[string]string{"conns": "10"},
		Connects: []Connect{{Name: "connect", Conns: 10, Ready: 10, Seconds: 1, PerSecond: 10, Failures: map[string]int{"refused": 1}}},
		Results:  map[string]float64{"ratio": 1.5},
		Medians:  map[string]float64{"p99": 3},
		Notes:    []string{"a note"},
	}
	r.Steps = []Step{{
		Name: "10 messages/s", Repeat: 1, Transport: "tcp", AskedPerSec: 10, Seconds: 10, Accepted: 100, AcceptedPS: 10, Targets: 100, TargetsPS: 10, Failed: map[string]int{"status 503": 2},
		Expected: 1000, Delivered: 999, DeliveredPS: 99.9, Lost: 1, LostPercent: 0.1,
		Classes:   []ClassResult{{Name: "room", Conns: 10, Ready: 10, Delivered: 999, Lost: 1, CloseCodes: map[uint16]int{3008: 1}, Latency: Latency{Count: 999, Mean: 1, P50: 1, P90: 2, P99: 3, P999: 4, Max: 5}}},
		Limit:     &LimitResult{Writers: 2, Rounds: 100, Writes: 1000, CPUSeconds: 1, CPUPerMillion: 4, WriterCPUSeconds: []float64{0.5, 0.5}},
		Idle:      &IdleResult{Conns: 10, ResidentPerConn: map[string]float64{"comet": 1000}, TotalPerConn: map[string]float64{"comet": 2000}, CoresByName: map[string]float64{"comet": 0.01}},
		Processes: []ProcessUse{{Name: "comet", PID: 1, CPUSeconds: 1, UserSeconds: 0.25, CPUPerMillion: 5, CPUPerMessage: 6, RSSBytes: 7, PSSBytes: 8, MaxRSSBytes: 9, RSSBefore: 10, Threads: 11}},
		System:    SystemUse{Dropped: 12, Others: []OtherUse{{"kswapd0", 0.16}}, Stalls: &StallUse{Count: 13, Share: 0.014, LongestMS: 15}, Speed: &SpeedUse{WorkUS: 20.5, SlowShare: 0.083, P99US: 250}},
		Metrics:   map[string]float64{"comet perseid_x_total": 1},
		BoundBy:   []string{"machine: 99 % busy"}, ClientSide: true,
	}}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.golden.json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the report has changed; UPDATE_GOLDEN=1 accepts it:\n%s", b.String())
	}
	file := filepath.Join(t.TempDir(), "r.json")
	if err := r.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); !bytes.Equal(got, want) {
		t.Error("the file differs")
	}
	var table bytes.Buffer
	r.Print(&table)
	for _, part := range []string{"10 messages/s", "comet 5", "ratio", "a note", "machine: 99 % busy", "resident"} {
		if !strings.Contains(table.String(), part) {
			t.Errorf("the table lacks %q:\n%s", part, table.String())
		}
	}
}

// A reader must see which figures are the machine's rather than the server's.
func TestNoiseIsTold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		use  SystemUse
		want []string
	}{
		{use: SystemUse{Other: 0.05, Stalls: &StallUse{Count: 2, Share: 0.001, LongestMS: 10}}},
		{use: SystemUse{}}, // stalls are not known
		{SystemUse{Other: 0.0749}, []string{"noise: others used 7 % of the machine"}},
		{SystemUse{Stalls: &StallUse{Count: 3, Share: 0.0021, LongestMS: 4}},
			[]string{"noise: processors stood still 3 times, for 0.21 % of the time and up to 4 ms"}},
		{SystemUse{Stalls: &StallUse{Count: 1, Share: 0.0005, LongestMS: 10.6}},
			[]string{"noise: processors stood still 1 times, for 0.05 % of the time and up to 11 ms"}},
		{SystemUse{Stalls: &StallUse{Count: 1, LongestMS: 10.6}, Others: []OtherUse{{"kswapd0", 0.25}, {"cron", 0.1}}},
			[]string{"noise: processors stood still 1 times, for 0 % of the time and up to 11 ms; of all others kswapd0 used most, 2.5 % of a core"}},
		{use: SystemUse{Speed: &SpeedUse{WorkUS: 20, SlowShare: 0.01, P99US: 300}}},
		{SystemUse{Speed: &SpeedUse{WorkUS: 20, SlowShare: 0.08, P99US: 250}},
			[]string{"noise: processors were slow for 8 % of the time; in the slowest 1 % they took 12 times as long"}},
		{SystemUse{Dropped: 7}, []string{"noise: 7 packets were dropped, net.core.netdev_max_backlog is 1000"}},
	} {
		b := bench{report: &Report{Machine: Machine{Backlog: 1000}}}
		st := Step{Seconds: 10, System: tc.use}
		b.bounds(&st)
		if !slices.Equal(st.BoundBy, tc.want) || st.ClientSide {
			t.Errorf("%+v: %q, want %q", tc.use, st.BoundBy, tc.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	read := func(text string) map[string]sample {
		all := map[string]sample{}
		readMetrics(strings.NewReader(text), "comet", all)
		return all
	}
	before := read("# TYPE perseid_a_total counter\nperseid_a_total{x=\"1 2\"} 5\n# TYPE perseid_g gauge\nperseid_g 3\ngo_threads 5\n")
	after := read("# TYPE perseid_a_total counter\nperseid_a_total{x=\"1 2\"} 7\n# TYPE perseid_g gauge\nperseid_g 4\n" +
		"# TYPE perseid_h histogram\nperseid_h_bucket{le=\"1\"} 3\nperseid_h_sum 1.5\nperseid_h_count 3\nnonsense\n")
	got := changes(before, after)
	want := map[string]float64{`comet perseid_a_total{x="1 2"}`: 2, "comet perseid_g": 4, "comet perseid_h_sum": 1.5, "comet perseid_h_count": 3}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s = %g, want %g", k, got[k], v)
		}
	}
}

func TestMembersOfRooms(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 7, 40} {
		for rooms := 1; rooms <= n; rooms++ {
			counts := make([]int, rooms)
			for i := range n {
				counts[i%rooms]++
			}
			for r := range rooms {
				if got := membersOf(&load.Class{Conns: n, Rooms: rooms}, r); got != counts[r] {
					t.Fatalf("%d connections, %d rooms: room %d has %d, want %d", n, rooms, r, got, counts[r])
				}
			}
		}
	}
	if m := median([]float64{3, 1, 2}); m != 2 || median([]float64{4, 1, 2, 3}) != 2.5 || !slices.Equal(split("a:1, :2,localhost:3"), []string{"a:1", "127.0.0.1:2", "127.0.0.1:3"}) {
		t.Error(m, split("a:1, :2,localhost:3"))
	}
}

// Who made the noise must be in the report, or nobody can end it.
func TestOthersAreNamed(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	key := func(o otherCPU) (k string) {
		for k := range o {
			if strings.HasPrefix(k, fmt.Sprint(pid, " ")) {
				return k
			}
		}
		return ""
	}
	before := readOthers(nil)
	k := key(before)
	if k == "" || key(readOthers(map[int]bool{pid: true})) != "" {
		t.Fatalf("%q: a process is missing, or one is there that is known", k)
	}
	now := before
	for began := time.Now(); now[k].CPUSeconds < before[k].CPUSeconds+0.2; now = readOthers(nil) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%+v after a minute", now[k])
		}
	}
	only := otherCPU{k: now[k]}
	got := only.since(before, 1)
	if len(got) != 1 || got[0].Name != "sh" || got[0].CPUSeconds < 0.19 {
		t.Errorf("%+v", got)
	}
	if got := only.since(before, 1e6); len(got) != 0 {
		t.Errorf("too little to be named: %+v", got)
	}
	if got := only.since(otherCPU{}, 1); len(got) != 0 {
		t.Errorf("of one that began meanwhile it is not known when: %+v", got)
	}
}
