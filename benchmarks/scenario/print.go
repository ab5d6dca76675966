package scenario

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// summarize makes the medians over repeated steps.
func (r *Report) summarize() {
	values := map[string][]float64{}
	for i := range r.Steps {
		st := &r.Steps[i]
		put := func(name string, v float64) { values[st.Name+": "+name] = append(values[st.Name+": "+name], v) }
		for k := range st.Classes {
			if c := &st.Classes[k]; c.Latency.Count > 0 {
				put(c.Name+" p50 ms", c.Latency.P50)
				put(c.Name+" p99 ms", c.Latency.P99)
			}
			if c := &st.Classes[k]; c.Undisturbed != nil {
				put(c.Name+" p99 ms undisturbed", c.Undisturbed.P99)
			}
		}
		put("lost %", st.LostPercent)
		put("delivered/s", st.DeliveredPS)
		put("accepted/s", st.AcceptedPS)
		for k := range st.Processes {
			u := &st.Processes[k]
			if u.CPUPerMillion > 0 {
				put(u.Name+" CPU s per million", u.CPUPerMillion)
			}
		}
		if l := st.Limit; l != nil {
			put("bare loop CPU s per million", l.CPUPerMillion)
			put("bare loop round p50 ms", l.RoundTime.P50)
		}
	}
	r.Medians = map[string]float64{}
	for name, v := range values {
		if len(v) > 1 {
			r.Medians[name] = round(median(v), 4)
		}
	}
}

// Print writes the tables for people.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s, commit %.16s, %d cores %s, Linux %s, %s\n", r.Scenario, r.Commit, r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Go)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Connects) > 0 {
		fmt.Fprintln(t, "connect\tconnections\tper s\tp50 ms\tp99 ms\tmax ms\tfailed attempts\tCPU us each, most MB resident\t")
		for i := range r.Connects {
			c := &r.Connects[i]
			failed := 0
			for _, n := range c.Failures {
				failed += n
			}
			use := []string{}
			for k := range c.Processes {
				u := &c.Processes[k]
				use = append(use, fmt.Sprintf("%s %.0f, %.0f", u.Name, u.CPUSeconds/float64(max(1, c.Ready))*1e6, float64(u.MaxRSSBytes)/1e6))
			}
			fmt.Fprintf(t, "%s\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%d\t%s\t\n", c.Name, c.Ready, c.PerSecond, c.Auth.P50, c.Auth.P99, c.Auth.Max, failed, strings.Join(use, "; "))
		}
		fmt.Fprintln(t)
	}
	if len(r.Steps) > 0 {
		fmt.Fprintln(t, "step\tclass\taccepted/s\tdelivered/s\tlost\tdup\tinv\tp50 ms\tp99 ms\tp99.9 ms\tmax ms\tCPU s per million\tbound by\t")
		for i := range r.Steps {
			printStep(t, &r.Steps[i])
		}
	}
	_ = t.Flush()
	for i := range r.Steps {
		printIdle(w, &r.Steps[i])
	}
	printValues(w, "medians", r.Medians)
	printValues(w, "results", r.Results)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}

func printValues(w io.Writer, title string, values map[string]float64) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+title)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(w, "  %-60s %g\n", name, values[name])
	}
}

func printStep(t io.Writer, st *Step) {
	cpu := []string{}
	for i := range st.Processes {
		u := &st.Processes[i]
		cpu = append(cpu, fmt.Sprintf("%s %.3g", u.Name, u.CPUPerMillion))
	}
	if l := st.Limit; l != nil {
		cpu = append(cpu, fmt.Sprintf("bare %.3g, round p50 %.1f p99 %.1f ms", l.CPUPerMillion, l.RoundTime.P50, l.RoundTime.P99))
	}
	for k := range st.Classes {
		c := &st.Classes[k]
		name, accepted, rate, use, bound := "", "", "", "", ""
		if k == 0 {
			name, accepted, rate = st.Name, fmt.Sprintf("%.1f", st.AcceptedPS), fmt.Sprintf("%.0f", st.DeliveredPS)
			use, bound = strings.Join(cpu, ", "), strings.Join(st.BoundBy, "; ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t\n", name, c.Name, accepted, rate,
			c.Lost+c.LostOnClosed, c.Duplicates, c.Inversions, c.Latency.P50, c.Latency.P99, c.Latency.P999, c.Latency.Max, use, bound)
	}
}

func printIdle(w io.Writer, st *Step) {
	if st.Idle == nil {
		return
	}
	fmt.Fprintf(w, "%s: %d connections, %d heartbeats, %.0f bytes of kernel memory per connection (both ends)\n", st.Name, st.Idle.Conns, st.Idle.Heartbeats, st.Idle.KernelPerConn)
	for i := range st.Processes {
		name := st.Processes[i].Name
		fmt.Fprintf(w, "  %-10s %8.0f bytes resident per connection, %.4f cores", name, st.Idle.ResidentPerConn[name], st.Idle.CoresByName[name])
		if g, ok := st.Idle.Goroutines[name]; ok {
			fmt.Fprintf(w, ", %.4f goroutines per connection", g)
		}
		fmt.Fprintln(w)
	}
}
