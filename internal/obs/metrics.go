package obs

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics makes the handles of one process and holds their registry.
type Metrics struct {
	Registry *prometheus.Registry

	mu     sync.Mutex
	shared map[string]made // by metric name
}

// made is a handle that exists, with the shape it was asked for.
type made struct {
	shape  string
	handle any
}

// NewMetrics starts with the metrics of the Go runtime, of the process, and
// perseid_build_info.
func NewMetrics() *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry(), shared: make(map[string]made)}
	m.Registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "perseid_build_info",
		Help:        "Version of the program and of Go; always 1.",
		ConstLabels: prometheus.Labels{"version": Version(), "go": runtime.Version()},
	})
	info.Set(1)
	m.Registry.MustRegister(info)
	return m
}

var (
	metricNameRE = regexp.MustCompile(`^perseid_[a-z0-9]+(_[a-z0-9]+)*$`)
	labelNameRE  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// shape is what two requests for one name must have in common, and where wrong
// use is found. label is "" for a metric without labels.
func shape(kind, name, label string, values []string) string {
	if !metricNameRE.MatchString(name) {
		panic(fmt.Sprintf("obs: metric %q: want perseid_ and snake_case", name))
	}
	if (kind == "counter") != strings.HasSuffix(name, "_total") {
		panic(fmt.Sprintf("obs: %s %q: counters, and only they, end in _total", kind, name))
	}
	if label != "" {
		if !labelNameRE.MatchString(label) || label == "le" {
			panic(fmt.Sprintf("obs: metric %s: label %q: want snake_case", name, label))
		}
		if len(values) == 0 {
			panic(fmt.Sprintf("obs: metric %s: label %s without values", name, label))
		}
	}
	seen := make(map[string]bool, len(values))
	for _, v := range values {
		if v == "" || seen[v] {
			panic(fmt.Sprintf("obs: metric %s: label value %q is empty or there twice", name, v))
		}
		seen[v] = true
	}
	return kind + " " + label + " " + strings.Join(values, " ")
}

// share gives the handle that exists under name, or makes and registers it.
func share[T prometheus.Collector](m *Metrics, name, shape string, build func() T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was, ok := m.shared[name]; ok {
		handle, same := was.handle.(T)
		if !same || was.shape != shape {
			panic(fmt.Sprintf("obs: metric %s exists as %q, asked for as %q", name, was.shape, shape))
		}
		return handle
	}
	handle := build()
	m.Registry.MustRegister(handle)
	m.shared[name] = made{shape: shape, handle: handle}
	return handle
}

// Counter makes a counter with one label, whose values are addressed by index.
func (m *Metrics) Counter(name, help, label string, values []string) *CounterSet {
	s := shape("counter", name, label, values)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *counters {
		return newCounters(name, help, label, slices.Clone(values))
	}).set()
}

// PlainCounter makes a counter without labels.
func (m *Metrics) PlainCounter(name, help string) *Counter {
	s := shape("counter", name, "", nil)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *counters { return newCounters(name, help, "", nil) }).set().At(0)
}

// Gauge makes a gauge with one label, whose values are addressed by index.
func (m *Metrics) Gauge(name, help, label string, values []string) *GaugeSet {
	s := shape("gauge", name, label, values)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *gauges {
		return newGauges(name, help, label, slices.Clone(values))
	}).set()
}

// PlainGauge makes a gauge without labels.
func (m *Metrics) PlainGauge(name, help string) *Gauge {
	s := shape("gauge", name, "", nil)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *gauges { return newGauges(name, help, "", nil) }).set().At(0)
}

// Histogram makes a histogram with one label, whose values are addressed by
// index. See Seconds and Bytes for bounds.
func (m *Metrics) Histogram(name, help string, bounds []float64, label string, values []string) *HistogramSet {
	s := shape("histogram", name, label, values) + fmt.Sprint(" ", bounds)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *histograms {
		return newHistograms(name, help, bounds, label, values)
	}).set()
}

// PlainHistogram makes a histogram without labels.
func (m *Metrics) PlainHistogram(name, help string, bounds []float64) *Histogram {
	s := shape("histogram", name, "", nil) + fmt.Sprint(" ", bounds)
	if m == nil {
		return nil
	}
	return share(m, name, s, func() *histograms {
		return newHistograms(name, help, bounds, "", nil)
	}).set().At(0)
}

// GaugeFunc makes a gauge that is computed when it is read. fn runs on the
// goroutine of a scrape and must not block. Several functions of one name are
// summed (one per bucket, say); remove takes this one out again.
func (m *Metrics) GaugeFunc(name, help string, fn func() float64) (remove func()) {
	s := shape("gauge", name, "", nil) + "func"
	if m == nil {
		return func() {}
	}
	return share(m, name, s, func() *gaugeFuncs { return newGaugeFuncs(name, help, "") }).
		add(func(emit func(string, float64)) { emit("", fn()) })
}

// GaugeSetFunc is GaugeFunc for a label whose values are known only at run time
// and few, such as the partitions of a topic. fn calls emit for each; what is
// emitted twice is summed.
func (m *Metrics) GaugeSetFunc(name, help, label string, fn func(emit func(value string, v float64))) (remove func()) {
	s := shape("gauge", name, label, []string{"at run time"}) + "func"
	if m == nil {
		return func() {}
	}
	return share(m, name, s, func() *gaugeFuncs { return newGaugeFuncs(name, help, label) }).add(fn)
}

// Seconds are bounds for durations between half a millisecond and ten seconds.
func Seconds() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// Bytes are bounds for sizes between 64 bytes and 16 MiB.
func Bytes() []float64 { return prometheus.ExponentialBuckets(64, 4, 10) }
