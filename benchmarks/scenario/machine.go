package scenario

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/internal/obs"
)

// Machine is where the run took place.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	OpenFiles   uint64 `json:"open_file_limit"`
	TCPMem      string `json:"tcp_mem"`
	Backlog     int64  `json:"netdev_max_backlog"` // packets, queue of a processor
	Autogroup   bool   `json:"sched_autogroup"`    // the kernel shares processors out to sessions (setsid) first, then to threads
	Congestion  string `json:"tcp_congestion_control"`
	QuickAck    bool   `json:"clients_quickack"` // the IPv4 route to the first server has quickack
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), TCPMem: strings.Join(strings.Fields(readText("/proc/sys/net/ipv4/tcp_mem")), " ")}
	m.CPU = strings.TrimSpace(field(readText("/proc/cpuinfo"), "model name"))
	m.MemoryBytes = kilobytes(field(readText("/proc/meminfo"), "MemTotal"))
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.Backlog, _ = strconv.ParseInt(strings.TrimSpace(readText("/proc/sys/net/core/netdev_max_backlog")), 10, 64)
	m.Autogroup = strings.TrimSpace(readText("/proc/sys/kernel/sched_autogroup_enabled")) == "1"
	m.Congestion = strings.TrimSpace(readText("/proc/sys/net/ipv4/tcp_congestion_control"))
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.OpenFiles = limit.Cur
	}
	return m
}

// commit is that of the program, if the build knows it.
func commit() string {
	revision, dirty := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "-dirty"
			}
		}
	}
	if revision == "" {
		return obs.Version()
	}
	return revision + dirty
}

func readText(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(b)
}

// field finds "name : value" in a file of /proc.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return value
		}
	}
	return ""
}

// kilobytes reads "123 kB" as bytes.
func kilobytes(value string) int64 {
	f := strings.Fields(value)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return n << 10
}
