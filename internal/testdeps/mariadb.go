package testdeps

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// MariaDB returns the address of a real MariaDB, or skips the test: the one
// named by PERSEID_TEST_MARIADB, or one that this test binary shares. Its user
// is root without a password. A test isolates itself by [Database].
func MariaDB(t testing.TB) string {
	t.Helper()
	if addr := os.Getenv("PERSEID_TEST_MARIADB"); addr != "" {
		if !greets(addr) {
			t.Fatalf("PERSEID_TEST_MARIADB = %s: no MariaDB answers", addr)
		}
		return addr
	}
	part(t, "mariadb")
	s, err := sharedMariaDB()
	if err != nil {
		t.Fatal(err)
	}
	if s.proc.Ended() {
		t.Fatalf("the shared MariaDB has ended; its log ends with:\n%s", s.logTail())
	}
	return s.Addr
}

// MariaDBServer starts a private MariaDB for tests that stop, kill or pause it,
// or skips the test. Commits survive Kill. Others share one by [MariaDB].
func MariaDBServer(t testing.TB) *Server {
	t.Helper()
	return private(t, mariadbKind(), nil)
}

// Database names a database that no other call names, on the server at addr, as
// the settings of Perseid spell it. It is not made: Perseid does that.
func Database(addr string) string {
	return fmt.Sprintf("mysql://root@%s/test_%s", addr, strings.ToLower(rand.Text()[:16]))
}

// sharedMariaDB is started by the first test and ended by the guard.
//
//nolint:gochecknoglobals // its purpose is to be one per test binary
var sharedMariaDB = sync.OnceValues(func() (*Server, error) {
	g, err := theGuard()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(g.dir, "mariadb")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Server{kind: mariadbKind(), dir: dir}
	return s, s.startSomewhere()
})

func mariadbKind() kind {
	return kind{name: "mariadb", ports: 1, ready: func(s *Server) bool { return greets(s.Addr) }}
}

// greets: the greeting of protocol 10 comes once recovery is over; an error
// packet has another byte there.
func greets(addr string) bool {
	greeting, err := ask(addr, nil, 5)
	return err == nil && greeting[4] == 10
}
