package obs

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Counter only grows.
type Counter struct {
	n atomic.Uint64
	_ [56]byte // event loops count neighbours in a set: one cache line each
}

// Inc adds one.
func (c *Counter) Inc() {
	if c != nil {
		c.n.Add(1)
	}
}

// Add adds n; a negative n is ignored.
func (c *Counter) Add(n int) {
	if c != nil && n > 0 {
		c.n.Add(uint64(n))
	}
}

// Value is the count so far.
func (c *Counter) Value() uint64 {
	if c == nil {
		return 0
	}
	return c.n.Load()
}

// A CounterSet holds one counter per label value, by the index of the value.
// An index outside the list panics: indexes are constants of the code.
type CounterSet struct{ cells []Counter }

// Inc adds one to counter i.
func (s *CounterSet) Inc(i int) { s.At(i).Inc() }

// Add adds n to counter i.
func (s *CounterSet) Add(i, n int) { s.At(i).Add(n) }

// Value is the count of i so far.
func (s *CounterSet) Value(i int) uint64 { return s.At(i).Value() }

// At is counter i, to be kept where it is used.
func (s *CounterSet) At(i int) *Counter {
	if s == nil {
		return nil
	}
	return &s.cells[i]
}

// A Gauge is a number that goes up and down.
type Gauge struct {
	n atomic.Int64
	_ [56]byte
}

// Set replaces the number.
func (g *Gauge) Set(n int64) {
	if g != nil {
		g.n.Store(n)
	}
}

// Add changes the number by n, which may be negative.
func (g *Gauge) Add(n int64) {
	if g != nil {
		g.n.Add(n)
	}
}

// Value is the number.
func (g *Gauge) Value() int64 {
	if g == nil {
		return 0
	}
	return g.n.Load()
}

// A GaugeSet holds one gauge per label value, by the index of the value.
type GaugeSet struct{ cells []Gauge }

// Set replaces the number of i.
func (s *GaugeSet) Set(i int, n int64) { s.At(i).Set(n) }

// Add changes the number of i.
func (s *GaugeSet) Add(i int, n int64) { s.At(i).Add(n) }

// Value is the number of i.
func (s *GaugeSet) Value(i int) int64 { return s.At(i).Value() }

// At is gauge i, to be kept where it is used.
func (s *GaugeSet) At(i int) *Gauge {
	if s == nil {
		return nil
	}
	return &s.cells[i]
}

// A Histogram counts observations in buckets.
type Histogram struct{ o prometheus.Observer }

// Observe counts a value, in the unit of the metric's name.
func (h *Histogram) Observe(v float64) {
	if h != nil {
		h.o.Observe(v)
	}
}

// Since counts the seconds that have passed since start.
func (h *Histogram) Since(start time.Time) {
	if h != nil {
		h.o.Observe(time.Since(start).Seconds())
	}
}

// A HistogramSet holds one histogram per label value, by the index of the value.
type HistogramSet struct{ cells []Histogram }

// Observe counts a value in histogram i.
func (s *HistogramSet) Observe(i int, v float64) { s.At(i).Observe(v) }

// Since counts the seconds since start in histogram i.
func (s *HistogramSet) Since(i int, start time.Time) { s.At(i).Since(start) }

// At is histogram i, to be kept where it is used.
func (s *HistogramSet) At(i int) *Histogram {
	if s == nil {
		return nil
	}
	return &s.cells[i]
}

// family is the description that the metrics of one name share.
type family struct {
	desc   *prometheus.Desc
	values []string // nil without label
}

func newFamily(name, help, label string, values []string) family {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	return family{desc: prometheus.NewDesc(name, help, labels, nil), values: values}
}

func (f family) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }

func (f family) send(ch chan<- prometheus.Metric, kind prometheus.ValueType, i int, v float64) {
	var labels []string
	if f.values != nil {
		labels = []string{f.values[i]}
	}
	ch <- prometheus.MustNewConstMetric(f.desc, kind, v, labels...)
}

// counters is the registry's side of a CounterSet.
type counters struct {
	family
	cells CounterSet
}

func newCounters(name, help, label string, values []string) *counters {
	return &counters{
		family: newFamily(name, help, label, values),
		cells:  CounterSet{cells: make([]Counter, max(1, len(values)))},
	}
}

func (c *counters) set() *CounterSet { return &c.cells }

func (c *counters) Collect(ch chan<- prometheus.Metric) {
	for i := range c.cells.cells {
		c.send(ch, prometheus.CounterValue, i, float64(c.cells.Value(i)))
	}
}

// gauges is the registry's side of a GaugeSet.
type gauges struct {
	family
	cells GaugeSet
}

func newGauges(name, help, label string, values []string) *gauges {
	return &gauges{
		family: newFamily(name, help, label, values),
		cells:  GaugeSet{cells: make([]Gauge, max(1, len(values)))},
	}
}

func (g *gauges) set() *GaugeSet { return &g.cells }

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	for i := range g.cells.cells {
		g.send(ch, prometheus.GaugeValue, i, float64(g.cells.Value(i)))
	}
}

// histograms is the registry's side of a HistogramSet.
type histograms struct {
	*prometheus.HistogramVec
	cells HistogramSet
}

func newHistograms(name, help string, bounds []float64, label string, values []string) *histograms {
	opts := prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds}
	if label == "" {
		h := &histograms{HistogramVec: prometheus.NewHistogramVec(opts, nil)}
		h.cells.cells = []Histogram{{o: h.WithLabelValues()}}
		return h
	}
	h := &histograms{HistogramVec: prometheus.NewHistogramVec(opts, []string{label})}
	for _, v := range values {
		h.cells.cells = append(h.cells.cells, Histogram{o: h.WithLabelValues(v)})
	}
	return h
}

func (h *histograms) set() *HistogramSet { return &h.cells }

// gaugeFuncs sums the functions registered under one name.
type gaugeFuncs struct {
	family
	plain bool

	mu   sync.Mutex
	next int
	fns  map[int]func(emit func(string, float64))
}

func newGaugeFuncs(name, help, label string) *gaugeFuncs {
	return &gaugeFuncs{
		family: newFamily(name, help, label, nil),
		plain:  label == "",
		fns:    make(map[int]func(func(string, float64))),
	}
}

func (g *gaugeFuncs) add(fn func(emit func(string, float64))) (remove func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := g.next
	g.next++
	g.fns[id] = fn
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.fns, id)
	}
}

func (g *gaugeFuncs) Collect(ch chan<- prometheus.Metric) {
	// The functions are foreign code: none of them runs under the lock.
	g.mu.Lock()
	fns := make([]func(func(string, float64)), 0, len(g.fns))
	for _, fn := range g.fns {
		fns = append(fns, fn)
	}
	g.mu.Unlock()
	sums := make(map[string]float64)
	if g.plain {
		sums[""] = 0
	}
	for _, fn := range fns {
		fn(func(value string, v float64) { sums[value] += v })
	}
	for value, v := range sums {
		if g.plain {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v)
		} else {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v, value)
		}
	}
}
