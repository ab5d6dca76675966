package obs

import (
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrape gives the perseid_ lines of /metrics, without comments.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).
		ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var b strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "perseid_") && !strings.HasPrefix(line, "perseid_build_info") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestEveryLabelValueIsThereFromTheStart(t *testing.T) {
	m := NewMetrics()
	c := m.Counter("perseid_drop_total", "Drops.", "reason", []string{"slow", "gone"})
	m.PlainCounter("perseid_accept_total", "Accepted.").Add(3)
	g := m.Gauge("perseid_sessions", "Sessions.", "proto", []string{"tcp", "ws"})
	m.PlainGauge("perseid_rooms", "Rooms.").Set(-4)
	m.Histogram("perseid_append_seconds", "Appends.", []float64{1}, "result", []string{"ok", "failed"}).Observe(1, 2)
	m.PlainHistogram("perseid_batch_bytes", "Batches.", []float64{10}).Observe(5)
	c.Inc(1)
	c.Add(1, 2)
	c.Add(1, -2)
	g.Add(0, 5)
	g.Add(0, -2)
	want := `perseid_accept_total 3
perseid_append_seconds_bucket{result="failed",le="1"} 0
perseid_append_seconds_bucket{result="failed",le="+Inf"} 1
perseid_append_seconds_sum{result="failed"} 2
perseid_append_seconds_count{result="failed"} 1
perseid_append_seconds_bucket{result="ok",le="1"} 0
perseid_append_seconds_bucket{result="ok",le="+Inf"} 0
perseid_append_seconds_sum{result="ok"} 0
perseid_append_seconds_count{result="ok"} 0
perseid_batch_bytes_bucket{le="10"} 1
perseid_batch_bytes_bucket{le="+Inf"} 1
perseid_batch_bytes_sum 5
perseid_batch_bytes_count 1
perseid_drop_total{reason="gone"} 3
perseid_drop_total{reason="slow"} 0
perseid_rooms -4
perseid_sessions{proto="tcp"} 3
perseid_sessions{proto="ws"} 0
`
	if got := scrape(t, m); got != want {
		t.Fatalf("got\n%s", got)
	}
	if c.Value(1) != 3 || g.Value(0) != 3 {
		t.Fatalf("values %d %d", c.Value(1), g.Value(0))
	}
}

func TestRuntimeAndBuildMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(NewMetrics().Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{
		`perseid_build_info{go="` + runtime.Version() + `",version="` + Version() + `"} 1`, "\ngo_goroutines ", "\nprocess_open_fds ",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestSameNameGivesSameHandle(t *testing.T) {
	m := NewMetrics()
	values := []string{"a", "b"}
	first := m.Counter("perseid_x_total", "X.", "l", values)
	values[0] = "changed by the caller"
	if m.Counter("perseid_x_total", "X.", "l", []string{"a", "b"}) != first {
		t.Error("counter made twice")
	}
	if m.PlainGauge("perseid_g", "G.") != m.PlainGauge("perseid_g", "G.") {
		t.Error("gauge made twice")
	}
	if m.PlainHistogram("perseid_h", "H.", Seconds()) != m.PlainHistogram("perseid_h", "H.", Seconds()) {
		t.Error("histogram made twice")
	}
	if got := scrape(t, m); !strings.Contains(got, `perseid_x_total{l="a"} 0`) {
		t.Errorf("got %s", got)
	}
}

func TestWrongUsePanicsAtConstruction(t *testing.T) {
	m := NewMetrics()
	m.Counter("perseid_x_total", "X.", "l", []string{"a"})
	m.PlainGauge("perseid_g", "G.")
	for name, use := range map[string]func(){
		"other values":   func() { m.Counter("perseid_x_total", "X.", "l", []string{"a", "b"}) },
		"other label":    func() { m.Counter("perseid_x_total", "X.", "k", []string{"a"}) },
		"other kind":     func() { m.GaugeFunc("perseid_g", "G.", func() float64 { return 0 }) },
		"no prefix":      func() { m.PlainCounter("x_total", "X.") },
		"capitals":       func() { m.PlainCounter("perseid_X_total", "X.") },
		"counter name":   func() { m.PlainCounter("perseid_y", "Y.") },
		"gauge name":     func() { m.PlainGauge("perseid_y_total", "Y.") },
		"bad label":      func() { m.Counter("perseid_y_total", "Y.", "a-b", []string{"a"}) },
		"no values":      func() { m.Counter("perseid_y_total", "Y.", "a", nil) },
		"value twice":    func() { m.Counter("perseid_y_total", "Y.", "a", []string{"a", "a"}) },
		"empty value":    func() { m.Counter("perseid_y_total", "Y.", "a", []string{""}) },
		"nil metrics":    func() { (*Metrics)(nil).PlainCounter("y", "Y.") },
		"other bounds":   func() { m.PlainHistogram("perseid_h", "", Seconds()); m.PlainHistogram("perseid_h", "", Bytes()) },
		"index too high": func() { m.Counter("perseid_x_total", "X.", "l", []string{"a"}).Inc(1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			use()
		}()
	}
}

func TestGaugeFuncsAreSummed(t *testing.T) {
	m := NewMetrics()
	m.GaugeFunc("perseid_a", "A.", func() float64 { return 1 })
	remove := m.GaugeFunc("perseid_a", "A.", func() float64 { return 2 })
	lag := func(n float64) func(func(string, float64)) {
		return func(emit func(string, float64)) { emit("0", n); emit("1", n); emit("1", 1) }
	}
	m.GaugeSetFunc("perseid_lag_records", "Lag.", "partition", lag(10))
	m.GaugeSetFunc("perseid_lag_records", "Lag.", "partition", lag(100))
	if got, want := scrape(t, m), "perseid_a 3\nperseid_lag_records{partition=\"0\"} 110\nperseid_lag_records{partition=\"1\"} 112\n"; got != want {
		t.Fatalf("got %s", got)
	}
	remove()
	remove()
	if got := scrape(t, m); !strings.HasPrefix(got, "perseid_a 1\n") {
		t.Fatalf("after remove: %s", got)
	}
}

// A room's callback that panics must cost its own metric only: scrapes run on
// goroutines of the registry, where a panic would end the process.
func TestPanickingGaugeFuncHidesNothingElse(t *testing.T) {
	m := NewMetrics()
	m.PlainCounter("perseid_ok_total", "Fine.").Inc()
	m.GaugeFunc("perseid_bad", "Bad.", func() float64 { panic("bad callback") })
	for range 3 {
		if got := scrape(t, m); got != "perseid_ok_total 1\n" {
			t.Fatalf("got %q", got)
		}
	}
}

func TestNilHandlesDoNothing(t *testing.T) {
	var m *Metrics
	c := m.Counter("perseid_x_total", "X.", "l", []string{"a"})
	c.Inc(0)
	c.Add(7, 1)
	c.At(3).Inc()
	m.PlainCounter("perseid_x_total", "X.").Inc()
	g := m.Gauge("perseid_g", "G.", "l", []string{"a"})
	g.Set(0, 1)
	g.Add(0, 1)
	m.PlainGauge("perseid_g", "G.").Set(1)
	h := m.Histogram("perseid_h", "H.", nil, "l", []string{"a"})
	h.Observe(0, 1)
	h.Since(0, time.Now())
	m.PlainHistogram("perseid_h", "H.", nil).Since(time.Now())
	m.GaugeFunc("perseid_f", "F.", func() float64 { return 0 })()
	m.GaugeSetFunc("perseid_s", "S.", "l", func(func(string, float64)) {})()
	if c.Value(0) != 0 || g.Value(0) != 0 {
		t.Fatal("nil handles count")
	}
}

func TestHandlesDoNotAllocate(t *testing.T) {
	m := NewMetrics()
	c := m.Counter("perseid_x_total", "X.", "l", []string{"a", "b"})
	one := c.At(1)
	g := m.Gauge("perseid_g", "G.", "l", []string{"a", "b"})
	h := m.Histogram("perseid_h", "H.", Seconds(), "l", []string{"a", "b"})
	start := time.Now()
	allocs := testing.AllocsPerRun(1000, func() {
		c.Inc(0)
		c.Add(1, 3)
		one.Inc()
		g.Add(1, -1)
		g.Set(0, 5)
		h.Observe(0, 0.1)
		h.Since(1, start)
	})
	if allocs != 0 {
		t.Fatalf("%v allocations", allocs)
	}
}

func TestCountersLoseNothing(t *testing.T) {
	m := NewMetrics()
	c := m.Counter("perseid_x_total", "X.", "l", []string{"a", "b"})
	h := m.PlainHistogram("perseid_h", "H.", []float64{1})
	var wg sync.WaitGroup
	const workers, each = 4, 2000
	for range workers {
		wg.Go(func() {
			for range each {
				c.Inc(0)
				c.Add(1, 2)
				h.Observe(0)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			scrape(t, m)
		}
	})
	wg.Wait()
	if c.Value(0) != workers*each || c.Value(1) != 2*workers*each {
		t.Fatalf("got %d and %d", c.Value(0), c.Value(1))
	}
	if got := scrape(t, m); !strings.Contains(got, "perseid_h_count 8000\n") {
		t.Fatalf("got %s", got)
	}
}

func BenchmarkCounterInc(b *testing.B) {
	c := NewMetrics().Counter("perseid_x_total", "X.", "l", []string{"a", "b"})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Inc(1)
		}
	})
}
