package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// Report is what a run writes.
type Report struct {
	Scenario    string            `json:"scenario"`
	Started     time.Time         `json:"started"`
	TookSeconds float64           `json:"took_seconds"`
	Command     []string          `json:"command"`
	Commit      string            `json:"commit"`
	Machine     Machine           `json:"machine"`
	Settings    map[string]string `json:"settings"`
	Connects    []Connect         `json:"connects,omitempty"`
	Steps       []Step            `json:"steps"`
	// Disturbed are the attempts that were run again because the machine was
	// slow (-attempts); nothing is computed from them.
	Disturbed         []Step    `json:"disturbed_steps,omitempty"`
	DisturbedConnects []Connect `json:"disturbed_connects,omitempty"`
	// Results are what the scenario computed from its steps: ratios, answers of
	// searches. Medians are those over repeated steps.
	Results map[string]float64 `json:"results,omitempty"`
	Medians map[string]float64 `json:"medians,omitempty"`
	Notes   []string           `json:"notes,omitempty"`
}

// Connect is the opening of all connections.
type Connect struct {
	Name      string         `json:"name"`
	Conns     int            `json:"connections"`
	Ready     int            `json:"ready"`
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"per_second"`
	Auth      Latency        `json:"connect_to_auth"`
	Failures  map[string]int `json:"failures,omitempty"` // attempts, retried
	Processes []ProcessUse   `json:"processes,omitempty"`
	Clients   ClientUse      `json:"clients"`
	System    SystemUse      `json:"system"`
}

// Step is one measured stretch of time.
type Step struct {
	Name        string  `json:"name"`
	Repeat      int     `json:"repeat"`
	Transport   string  `json:"transport"`
	AskedPerSec float64 `json:"asked_per_second"` // messages; 0 = as fast as answered
	Seconds     float64 `json:"seconds"`          // publishing
	Accepted    uint64  `json:"accepted"`         // messages
	AcceptedPS  float64 `json:"accepted_per_second"`
	// Targets are accepted messages, users counted one by one.
	Targets   uint64         `json:"targets"`
	TargetsPS float64        `json:"targets_per_second"`
	Failed    map[string]int `json:"failed,omitempty"`
	Unsent    uint64         `json:"not_sent,omitempty"` // due, but the publishers were too late

	Expected       uint64  `json:"expected_deliveries"`
	Delivered      uint64  `json:"delivered"`
	DeliveredPS    float64 `json:"delivered_per_second"`
	Lost           uint64  `json:"lost"`
	LostPercent    float64 `json:"lost_percent"`
	Duplicates     uint64  `json:"duplicates"`
	Inversions     uint64  `json:"inversions"`
	SettledSeconds float64 `json:"settled_seconds"` // from the last publish to the last delivery

	Classes    []ClassResult      `json:"classes"`
	API        Latency            `json:"push_api"`
	Lag        Latency            `json:"publisher_lag"`
	Limit      *LimitResult       `json:"limit,omitempty"`
	Idle       *IdleResult        `json:"idle,omitempty"`
	Processes  []ProcessUse       `json:"processes,omitempty"`
	Metrics    map[string]float64 `json:"server_metrics,omitempty"` // counters: change over the step; others: value after it
	Clients    ClientUse          `json:"clients"`
	System     SystemUse          `json:"system"`
	BoundBy    []string           `json:"bound_by,omitempty"`
	ClientSide bool               `json:"client_bound"`
}

// ClassResult is a class of connections in a step.
type ClassResult struct {
	Name           string         `json:"name"`
	Conns          int            `json:"connections"`
	Ready          int            `json:"ready_at_end"`
	Delivered      uint64         `json:"delivered"`
	Lost           uint64         `json:"lost"`
	LostOnClosed   uint64         `json:"lost_on_closed_connections,omitempty"`
	Duplicates     uint64         `json:"duplicates"`
	Inversions     uint64         `json:"inversions"`
	Ambiguous      uint64         `json:"ambiguous,omitempty"`
	Late           uint64         `json:"late,omitempty"`
	Unknown        uint64         `json:"unknown,omitempty"`
	Silent         int            `json:"silent,omitempty"`
	ClosedByServer int            `json:"closed_by_server,omitempty"`
	CloseCodes     map[uint16]int `json:"close_codes,omitempty"`
	Churned        int            `json:"churned,omitempty"`
	Latency        Latency        `json:"latency"`
	// Undisturbed is without the messages that were due while a processor of
	// the machine stood still or was slow, or earlier by up to the p99 of
	// Latency; nil: not watched, or the share that remained is below a fifth.
	Undisturbed      *Latency `json:"latency_undisturbed,omitempty"`
	UndisturbedShare float64  `json:"undisturbed_share,omitempty"`
}

// Latency is a histogram in a few numbers, in milliseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
}

// LimitResult is the bare write loop.
type LimitResult struct {
	Writers          int       `json:"writers"`
	Rounds           int       `json:"rounds"`
	Writes           uint64    `json:"writes"`
	Full             uint64    `json:"full_buffers,omitempty"`
	Broken           uint64    `json:"broken,omitempty"`
	CPUSeconds       float64   `json:"cpu_seconds"`
	UserSeconds      float64   `json:"user_seconds"`
	CPUPerMillion    float64   `json:"cpu_seconds_per_million"`
	WritesPerSecond  float64   `json:"writes_per_second"`
	WritesPerCPU     float64   `json:"writes_per_cpu_second"`
	RoundTime        Latency   `json:"round_time"` // from the time it was due to its last write
	WriterCPUSeconds []float64 `json:"writer_cpu_seconds"`
}

// IdleResult is what connections cost that do nothing.
type IdleResult struct {
	Conns int `json:"connections"`
	// ResidentPerConn is what the process grew by since before the connections;
	// AfterGC the same after a forced garbage collection.
	ResidentPerConn map[string]float64 `json:"resident_bytes_per_connection"`
	AfterGC         map[string]float64 `json:"resident_bytes_per_connection_after_gc,omitempty"`
	TotalPerConn    map[string]float64 `json:"whole_process_bytes_per_connection"`
	Goroutines      map[string]float64 `json:"goroutines_per_connection,omitempty"`
	CoresByName     map[string]float64 `json:"cores"` // of the heartbeats
	// KernelPerConn is what the kernel's slab and the socket buffers grew by,
	// for both ends of a connection.
	KernelPerConn float64 `json:"kernel_bytes_per_connection"`
	Heartbeats    uint64  `json:"heartbeats"`
	Echoes        uint64  `json:"heartbeat_replies"`
}

// ProcessUse is what a server process used.
type ProcessUse struct {
	Name          string  `json:"name"`
	PID           int     `json:"pid"`
	CPUSeconds    float64 `json:"cpu_seconds"`
	UserSeconds   float64 `json:"user_seconds"`
	CPUPerMillion float64 `json:"cpu_seconds_per_million,omitempty"` // deliveries
	CPUPerMessage float64 `json:"cpu_microseconds_per_message,omitempty"`
	RSSBytes      int64   `json:"rss_bytes"`
	PSSBytes      int64   `json:"pss_bytes,omitempty"`
	MaxRSSBytes   int64   `json:"max_rss_bytes"`
	RSSBefore     int64   `json:"rss_before_bytes"`
	Threads       int     `json:"threads"`
}

// ClientUse is what the measuring itself used.
type ClientUse struct {
	CPUSeconds       float64 `json:"cpu_seconds"`
	PublisherSeconds float64 `json:"publisher_cpu_seconds"`
	BusiestLoop      float64 `json:"busiest_loop_share"` // of one core
	DrainMaxMS       float64 `json:"longest_drain_round_ms"`
	Reads            uint64  `json:"reads"`
	Bytes            uint64  `json:"bytes"`
}

// SystemUse is the whole machine, in shares of all cores.
type SystemUse struct {
	Busy  float64 `json:"busy_share"`
	Other float64 `json:"other_share"` // used by none of the measured processes
	// Others are the three of them that used most. Threads of the kernel are
	// among them; what the kernel does in interrupts is nobody's.
	Others          []OtherUse `json:"others,omitempty"`
	SoftIRQ         float64    `json:"softirq_share"`
	Load1           float64    `json:"load_1m"`
	TCPSockets      int64      `json:"tcp_sockets"`
	TCPMemoryBytes  int64      `json:"tcp_memory_bytes"`
	TCPMemoryBefore int64      `json:"tcp_memory_before_bytes"`
	SlabBytes       int64      `json:"kernel_slab_bytes"`
	SlabBefore      int64      `json:"kernel_slab_before_bytes"`
	// Dropped packets found the queue of a processor full (the second column
	// of /proc/net/softnet_stat). TCP repeats them, 200 ms later at worst.
	Dropped int64     `json:"packets_dropped"`
	Stalls  *StallUse `json:"stalls,omitempty"` // nil: not watched
	Speed   *SpeedUse `json:"speed,omitempty"`  // as stalls
}

// OtherUse is a process, or a thread of the kernel, that is none of the measured.
type OtherUse struct {
	Name       string  `json:"name"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

// StallUse are the times of 3 ms and more when a processor of the machine
// stood still: not even a thread of real-time priority got it.
type StallUse struct {
	Count     int     `json:"count"`
	Share     float64 `json:"share"` // of the time of all cores
	LongestMS float64 `json:"longest_ms"`
}

// SpeedUse is how fast the processors of the machine were: how long the same
// piece of work, 20,000 multiplications, took at real-time priority, every 5 ms
// on each of them.
type SpeedUse struct {
	WorkUS    float64 `json:"work_us"`    // median
	SlowShare float64 `json:"slow_share"` // of the pieces; they took over 1.5 times the median
	P99US     float64 `json:"work_p99_us"`
	// Disturbed is the share of the time in which one of them was slow or
	// stood still.
	Disturbed float64 `json:"disturbed_share"`
}

func speedOf(s *load.Stalls, seconds float64) *SpeedUse {
	work, median := &s.Work, s.Work.Quantile(0.5)
	disturbed := int64(0)
	for _, span := range s.Disturbed {
		disturbed += span.To - span.From
	}
	return &SpeedUse{
		Disturbed: round(min(1, float64(disturbed)/1e9/seconds), 3),
		WorkUS:    round(float64(median)/1e3, 1), P99US: round(float64(work.Quantile(0.99))/1e3, 1),
		SlowShare: round(float64(work.Above(median*3/2))/float64(max(work.Count, 1)), 5),
	}
}

func ms(ns int64) float64 { return round(float64(ns)/1e6, 4) }

// round keeps some digits after the point: the reports are read by people.
func round(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}

func latencyOf(h *load.Hist) Latency {
	return Latency{
		Count: h.Count, Mean: round(h.MeanNS()/1e6, 4), P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)),
		P99: ms(h.Quantile(0.99)), P999: ms(h.Quantile(0.999)), Max: ms(h.MaxNS),
	}
}

func classOf(c *load.ClassStats) ClassResult {
	return ClassResult{
		Name: c.Name, Conns: c.Conns, Ready: c.Ready,
		Delivered: c.Received - c.Duplicates - c.Late - c.Unknown,
		Lost:      c.Lost, LostOnClosed: c.LostCut, Duplicates: c.Duplicates, Inversions: c.Inversions,
		Ambiguous: c.Ambiguous, Late: c.Late, Unknown: c.Unknown, Silent: c.Silent,
		ClosedByServer: c.ClosedByServer, CloseCodes: c.Codes, Churned: c.Churned, Latency: latencyOf(&c.Latency),
	}
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("bench: report: %w", err)
	}
	return nil
}

// hasMeasured tells whether any step was, or connections got ready.
func (r *Report) hasMeasured() bool {
	return len(r.Steps) > 0 || slices.ContainsFunc(r.Connects, func(c Connect) bool { return c.Ready > 0 })
}

// WriteFile writes the report to a file, which is never half-written. Where a
// link leads is replaced; a device or a pipe is written to.
func (r *Report) WriteFile(name string) error {
	if at, err := filepath.EvalSymlinks(name); err == nil {
		name = at
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("bench: report: %w", err)
		}
		return errors.Join(r.Write(f), f.Close())
	}
	f, err := os.Create(name + ".new")
	if err != nil {
		return fmt.Errorf("bench: report: %w", err)
	}
	if err = errors.Join(r.Write(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// median of at least one value.
func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}
