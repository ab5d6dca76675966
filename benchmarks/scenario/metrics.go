package scenario

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one line of /metrics.
type sample struct {
	value   float64
	counter bool
}

// scrape reads the metrics of all -admin listeners: Perseid's own and the
// number of goroutines. One that does not answer is left out.
func (b *bench) scrape(ctx context.Context) map[string]sample {
	all := map[string]sample{}
	for _, a := range b.opt.admins {
		b.scrapeOne(ctx, a[0], split(a[1])[0], all)
	}
	return all
}

func (b *bench) scrapeOne(ctx context.Context, name, addr string, all map[string]sample) {
	_ = b.fetch(ctx, "http://"+addr+"/metrics", 5*time.Second, func(r *http.Response) error {
		readMetrics(r.Body, name, all)
		return nil
	})
}

// readMetrics reads the text format of Prometheus.
func readMetrics(r io.Reader, name string, all map[string]sample) {
	counter := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if f := strings.Fields(line); strings.HasPrefix(line, "# TYPE ") && len(f) == 4 {
			counter[f[2]] = f[3] == "counter" || f[3] == "histogram" || f[3] == "summary"
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' || !strings.HasPrefix(line, "perseid_") && !strings.HasPrefix(line, "go_goroutines") && !strings.HasPrefix(line, "go_memstats_heap_inuse") {
			continue
		}
		key := line[:i]
		family, _, _ := strings.Cut(key, "{")
		if strings.HasSuffix(family, "_bucket") {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			continue
		}
		base := strings.TrimSuffix(strings.TrimSuffix(family, "_sum"), "_count")
		all[name+" "+key] = sample{v, counter[family] || counter[base]}
	}
}

// changes are the counters that moved, by how much, and the gauges that are
// not 0.
func changes(before, after map[string]sample) map[string]float64 {
	moved := map[string]float64{}
	for key, a := range after {
		v := a.value
		if a.counter {
			v -= before[key].value
		}
		if v != 0 {
			moved[key] = round(v, 6)
		}
	}
	if len(moved) == 0 {
		return nil
	}
	return moved
}

// ownCPU is the CPU time of this process, which publishes.
func ownCPU() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
