package archtest

// Exception lets one place break one rule.
type Exception struct {
	Rule   string
	Key    string // a path, or path:symbol
	Reason string
}

// Exceptions are the places where a rule does not serve its reason. One that
// nothing needs any more fails the test.
func Exceptions() []Exception {
	return []Exception{
		{"globals", "internal/obs/build.go:version", "the linker sets it (-ldflags -X), nobody else"},
		{"environment", "internal/failpoint/on.go", "a point in the middle of the code has no Config; it is built for tests only"},
		{"environment", "internal/app/spare_linux.go", "the mark between a process and itself, started once more, is no setting"},
		{"environment", "internal/app/procs.go", "GOMAXPROCS is a setting of Go's runtime, which does not tell whether it was given"},
	}
}
