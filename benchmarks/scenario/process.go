package scenario

import (
	"fmt"
	"strconv"
	"strings"
)

// ticksPerSecond of /proc/<pid>/stat, the same on all architectures that Linux
// and Go share.
const ticksPerSecond = 100

// process is a server that is measured.
type process struct {
	name    string
	pid     int
	started string // with it a pid is unique
}

// processTimes is the CPU time used so far.
type processTimes struct{ user, sys float64 }

func (t processTimes) total() float64 { return t.user + t.sys }

func newProcess(name string, pid int) (process, error) {
	p := process{name: name, pid: pid}
	f, err := statFields(pid)
	if err != nil {
		return p, err
	}
	p.started = f[19]
	return p, nil
}

// statFields are those of /proc/<pid>/stat behind the name: state is 0.
func statFields(pid int) ([]string, error) {
	text := readText(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(text, ')')
	f := strings.Fields(text[i+1:])
	if len(f) < 22 || f[0] == "Z" {
		return nil, fmt.Errorf("bench: there is no process %d", pid)
	}
	return f, nil
}

// times fails when the process has ended meanwhile.
func (p process) times() (processTimes, error) {
	f, err := statFields(p.pid)
	if err != nil || f[19] != p.started {
		return processTimes{}, fmt.Errorf("bench: %s (pid %d) has ended", p.name, p.pid)
	}
	return timesOf(f), nil
}

func timesOf(stat []string) processTimes {
	user, _ := strconv.ParseFloat(stat[11], 64)
	sys, _ := strconv.ParseFloat(stat[12], 64)
	return processTimes{user / ticksPerSecond, sys / ticksPerSecond}
}

func (p process) rss() int64 {
	f := strings.Fields(readText(fmt.Sprintf("/proc/%d/statm", p.pid)))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * 4096
}

func (p process) memory() (rss, pss int64) {
	text := readText(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	return kilobytes(field(text, "Rss")), kilobytes(field(text, "Pss"))
}

func (p process) threads() int {
	n, _ := strconv.Atoi(strings.TrimSpace(field(readText(fmt.Sprintf("/proc/%d/status", p.pid)), "Threads")))
	return n
}

// processName is its command, as long as the kernel keeps it (15 bytes).
func processName(pid int) string {
	return strings.TrimSpace(readText(fmt.Sprintf("/proc/%d/comm", pid)))
}

// machineTimes are the seconds that all cores spent, since the boot.
type machineTimes struct{ all, idle, softirq float64 }

func readMachineTimes() machineTimes {
	line, _, _ := strings.Cut(readText("/proc/stat"), "\n")
	var t machineTimes
	for i, f := range strings.Fields(line) {
		if i == 0 || i > 8 { // guest time is part of user time
			continue
		}
		v, _ := strconv.ParseFloat(f, 64)
		v /= ticksPerSecond
		t.all += v
		switch i {
		case 4, 5: // idle, waiting for a disk
			t.idle += v
		case 7:
			t.softirq += v
		}
	}
	return t
}

// sockets reads the line of TCP in /proc/net/sockstat.
func sockets() (count, memory int64) {
	f := strings.Fields(field(readText("/proc/net/sockstat"), "TCP"))
	for i := 0; i+1 < len(f); i += 2 {
		n, _ := strconv.ParseInt(f[i+1], 10, 64)
		switch f[i] {
		case "inuse":
			count = n
		case "mem":
			memory = n * 4096
		}
	}
	return count, memory
}

// droppedPackets counts packets since the boot that found the queue of a
// processor full; loopback has no other.
func droppedPackets() (n int64) {
	for line := range strings.Lines(readText("/proc/net/softnet_stat")) {
		if f := strings.Fields(line); len(f) > 1 {
			v, _ := strconv.ParseInt(f[1], 16, 64)
			n += v
		}
	}
	return n
}

// slab is the kernel's own memory, in which the sockets are.
func slab() int64 { return kilobytes(field(readText("/proc/meminfo"), "Slab")) }

func load1() float64 {
	v, _ := strconv.ParseFloat(strings.Fields(readText("/proc/loadavg") + " 0")[0], 64)
	return v
}
