package obs

import (
	"io"
	"runtime/debug"
	"runtime/pprof"
)

// version is set by the linker: -ldflags "-X <module>/internal/obs.version=v1.2.3".
var version string

// Version is the version of the program: from the linker, else from the module
// that was built, else the commit, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if commit == "" {
		return "devel"
	}
	return "devel-" + commit + dirty
}

// DumpGoroutines writes the stacks of all goroutines, for a process that was
// told twice to stop and did not.
func DumpGoroutines(w io.Writer) error {
	return pprof.Lookup("goroutine").WriteTo(w, 2)
}
