// Package config fills a configuration struct from its defaults, a TOML file,
// environment variables and command line settings, in that order, and tells
// everything that is wrong with the result at once.
//
// A configuration is a plain struct filled with defaults. Sections are nested
// structs, keys are fields:
//
//	type Config struct {
//		TCP TCPConfig `toml:"tcp" doc:"goim frames over TCP"`
//	}
//	type TCPConfig struct {
//		Bind    []string      `toml:"bind" doc:"addresses to listen on, host:port"`
//		Timeout time.Duration `toml:"timeout" doc:"time to authenticate, 1s to 1m"`
//		Token   string        `toml:"token" secret:"true" doc:"shared secret"`
//	}
//
// Keys are string, bool, integer, float, time.Duration, list of strings or
// integers, map[string]string and map[string][]string. Every exported field
// has a toml tag; `toml:"-"` keeps one out. A struct that cannot be a
// configuration is a defect of the program: Load returns an error for it, the
// other functions panic.
//
// # Layers
//
// File:        tcp.bind under [tcp]. A value replaces the one below it; lists
// and maps are replaced as a whole. Durations are strings ("1.5s").
//
// Environment: PERSEID_TCP_BIND="a:1,b:2". Lists are separated by commas, so
// elements that contain one can only come from a file; entries of a map are
// separated by semicolons ("bj=a,b;sh=c").
//
// Settings:    -set tcp.bind=a:1,b:2, written as in the environment, and
// -set regions.bj=a,b for one entry of a map.
//
// # Guarantees
//
// A key, variable or setting that names nothing is an error, with a suggestion
// when one is near. All problems of all layers are reported together, then
// those that the sections find themselves (Problems). Values of fields tagged
// secret are never part of an error, of Redacted or of Keys. What Document
// writes loads back to the same struct; empty lists and maps load as nil.
//
// # Concurrency
//
// The functions keep no state. Load owns dst until it returns.
//
// # Non-goals
//
// No reload while running. No other package reads files or the environment to
// learn settings.
package config
