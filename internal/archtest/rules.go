package archtest

// Rule is one law of the house.
type Rule struct {
	Name   string
	Reason string // printed with the findings: why, and where to go instead
	Check  func(*Tree) []Finding
}

// Rules are all of them, in the order of internal/DESIGN.md.
func Rules() []Rule {
	return []Rule{
		{"processes", "comet, logic and job never import each other: they meet in Kafka, Redis and gRPC, so that each can be scaled, restarted and read alone. " +
			"What two of them need is a noun (internal/message) or a port below both; a test that needs two belongs to internal/app.", processes},
		{"layers", "cmd -> internal/app -> cores and adapters -> ports -> message: an adapter knows its own core, a core knows no adapter, and only internal/app sees everything. " +
			"Declare an interface where you use it and let internal/app pass the adapter in.", layers},
		{"cores", "a core imports no client library: it is tested without servers and outlives any of them. " +
			"The library's code goes into an adapter, a folder below the core.", cores},
		{"leaves", "internal/message and pkg/* are usable without this product: they import the standard library and well-kept leaves, and never internal/ or api/.", leaves},
		{"api", "api/* is the contract between processes, not a model: only the adapters grpcapi, httpapi, *client and kafkastream translate it, and tests.", apis},
		{"libraries", "a client library has one home, so that its traps are known in one place and its options are set once.", libraries},
		{"testsupport", "packages for tests are imported by tests only: none of their code belongs into a binary.", testSupport},
		{"environment", "only internal/config reads files and environment, so that every setting has a default, a doc line and a validation, and -t sees all of them. " +
			"Take a value in your Config.", environment},
		{"globals", "no init functions and no package-level variables that change: what a package is depends on its arguments only, and two of it fit in one process (perseid run). " +
			"Make it a field, a constant or a function; error sentinels, compile-time guards, embedded files and tables that nobody writes are fine.", globals},
		{"packagedoc", "each package says its job once: one file carries a doc comment, whose first sentence starts with \"Package <name>\" or, for a program, \"Command <name>\", and says what it is for.", packageDocs},
		{"filesize", "the reader's unit is a file: 150-300 lines are normal, above 600 needs a line \"- `path`: reason\" in the section \"Files above 600 lines\" of internal/DESIGN.md, " +
			"above 1,000 is never, and a cmd's main.go has at most 60.", fileSizes},
		{"foldernames", "folders are named after what the system is about (session, timeline, presence), never after layers or leftovers.", folderNames},
		{"promises", "no TODO and no \"for now\" in code: do it, open an issue, or say what the limit is.", promises},
		{"skips", "a test that skips silently is not a test: internal/testdeps.Skip notes the reason, and the run ends with the list.", skips},
		{"sleeps", "no test sleeps: wait on a condition with a deadline, or use testing/synctest, where sleeping costs nothing.", sleeps},
		{"leaks", "a package that starts goroutines checks in its tests that they end: leakcheck.Main in TestMain, leakcheck.Check in tests, " +
			"or a check of its own, named by a line \"//archtest:leaks <function that the tests call>\" in one of them.", leaks},
	}
}
