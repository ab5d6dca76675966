package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// Result is what a run writes.
type Result struct {
	Command string  `json:"command"`
	Commit  string  `json:"commit"`
	Machine Machine `json:"machine"`
	Options options `json:"options"`

	SettledBytes   float64 `json:"resident_bytes_per_connection_settled"`
	CollectedBytes float64 `json:"resident_bytes_per_connection_collected"`
	ReleasedBytes  float64 `json:"resident_bytes_per_connection_released"`
	HeapBytes      float64 `json:"heap_bytes_per_connection"`
	Objects        float64 `json:"heap_objects_per_connection"`
	Goroutines     float64 `json:"goroutines_per_connection"`
	ConnectSeconds float64 `json:"connect_seconds"`

	Before    Memory `json:"before"`
	Settled   Memory `json:"settled"`
	Collected Memory `json:"collected"`
	Released  Memory `json:"released"`
}

// Memory is the comet at one moment.
type Memory struct {
	ResidentBytes int64 `json:"resident_bytes"`
	HeapBytes     int64 `json:"heap_bytes"`
	Objects       int64 `json:"heap_objects"`
	Goroutines    int   `json:"goroutines"`
	Sessions      int   `json:"sessions"`
}

// Machine is where it ran.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() Machine {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return Machine{CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)), Go: runtime.Version()}
}

// field finds "name : value" in a file of /proc.
func field(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func residentBytes() int64 {
	kb, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/self/status", "VmRSS"), " kB"), 10, 64)
	return kb << 10
}

// commit is what the working folder stands at.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=40").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func memory(sessions int) Memory {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Memory{
		ResidentBytes: residentBytes(), HeapBytes: int64(m.HeapAlloc), Objects: int64(m.HeapObjects),
		Goroutines: runtime.NumGoroutine(), Sessions: sessions,
	}
}
