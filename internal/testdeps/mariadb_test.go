package testdeps

import (
	"path/filepath"
	"testing"
)

func TestMariaDBIsOnePerTestBinaryAndDatabasesAreMany(t *testing.T) {
	t.Parallel()
	addr := MariaDB(t)
	if again := MariaDB(t); again != addr {
		t.Fatalf("two servers in one test binary: %s and %s", addr, again)
	}
	if a, b := Database(addr), Database(addr); a == b {
		t.Fatalf("twice the database %s", a)
	}
}

// What a database survives is tested by its user, internal/timeline/sqlstore.
func TestAKilledMariaDBComesBackOnItsData(t *testing.T) {
	t.Parallel()
	s := MariaDBServer(t)
	if files, err := filepath.Glob(filepath.Join(s.Dir(), "data", "ibdata1")); err != nil || len(files) != 1 {
		t.Fatalf("data below %s: %q, %v", s.Dir(), files, err)
	}
	addr := s.Addr
	s.Kill()
	if greets(addr) {
		t.Fatal("the killed server answers")
	}
	s.Restart()
	if s.Addr != addr || !greets(addr) {
		t.Fatalf("%s does not answer at %s", s.Addr, addr)
	}
}
