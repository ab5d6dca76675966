package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/perseid-im/perseid/benchmarks/scenario"
)

// points reads a series: the median over the repeats of each rate, by rate.
func (s *seriesSpec) points(dir string) ([][2]float64, error) {
	if s.Report == "" {
		return s.Points, nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, s.Report))
	if err != nil {
		return nil, err
	}
	var r scenario.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Report, err)
	}
	byRate := map[float64][]float64{}
	for i := range r.Steps {
		st := &r.Steps[i]
		if st.AskedPerSec == 0 {
			continue // a closed loop has no place on the axis
		}
		v, ok, err := s.value(st)
		if err != nil {
			return nil, err
		}
		if ok {
			byRate[st.AskedPerSec] = append(byRate[st.AskedPerSec], v)
		}
	}
	var points [][2]float64
	for rate, values := range byRate {
		points = append(points, [2]float64{rate, median(values)})
	}
	slices.SortFunc(points, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
	if len(points) == 0 {
		return nil, fmt.Errorf("%s has no step with %q", s.Report, s.Value)
	}
	return points, nil
}

// value is what of a step is drawn; ok is false where the step has none.
func (s *seriesSpec) value(st *scenario.Step) (v float64, ok bool, err error) {
	what, bare := strings.CutPrefix(s.Value, "bare ")
	if bare != (st.Limit != nil) {
		return 0, false, nil
	}
	if bare {
		switch what {
		case "cpu":
			return st.Limit.CPUPerMillion, true, nil
		case "round":
			return st.Limit.RoundTime.P50, true, nil
		}
		return 0, false, fmt.Errorf("no value %q", s.Value)
	}
	if name, found := strings.CutPrefix(what, "cpu "); found {
		for i := range st.Processes {
			if strings.HasPrefix(st.Processes[i].Name, name) {
				v += st.Processes[i].CPUPerMillion
				ok = true
			}
		}
		return v, ok, nil
	}
	for i := range st.Classes {
		c := &st.Classes[i]
		if s.Class != "" && c.Name != s.Class {
			continue
		}
		l := &c.Latency
		values := map[string]float64{
			"p50": l.P50, "p90": l.P90, "p99": l.P99, "p99.9": l.P999, "max": l.Max, "mean": l.Mean,
			"lost %": st.LostPercent, "delivered/s": st.DeliveredPS,
		}
		if v, ok = values[what]; !ok {
			return 0, false, fmt.Errorf("no value %q", s.Value)
		}
		return v, true, nil
	}
	return 0, false, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
