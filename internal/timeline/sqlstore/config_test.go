package sqlstore

import (
	"strings"
	"testing"
)

func TestProblemsOfADSNNeverShowIt(t *testing.T) {
	for dsn, good := range map[string]bool{
		"":                      true,
		"mysql://u:geheim@db/x": true,
		"mysql://u:ge%40heim@db:3307/x?tls=skip-verify": true,
		"sqlite:/var/lib/x.db":                          true,
		"sqlite:":                                       false,
		"sqlite::memory:":                               false,
		"postgres://u:geheim@db/x":                      false,
		"mysql://u:geheim@db":                           false,
		"mysql://u:geheim@db/a`b":                       false,
		"mysql://u:geheim@db/x?tls=nowhere":             false,
		"mysql://u:ge heim%zz@db/x":                     false,
		"u:geheim@tcp(db)/x":                            false,
	} {
		cfg := DefaultConfig()
		cfg.DSN = dsn
		problems := strings.Join(cfg.Problems(), "; ")
		if (problems == "") != good {
			t.Errorf("%s: %q", dsn, problems)
		}
		if strings.Contains(problems, "heim") {
			t.Errorf("the password is shown: %s", problems)
		}
	}
}

func TestDSN(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DSN = "mysql://us%2Fer:ge%40heim@db/x?tls=skip-verify"
	at, err := parse(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := at.mysql
	if m.User != "us/er" || m.Passwd != "ge@heim" || m.Addr != "db:3306" || m.DBName != "x" || m.TLSConfig != "skip-verify" || !m.InterpolateParams {
		t.Errorf("%+v", m)
	}
}

// Symptom: with clientFoundRows=true in the DSN a position that has another
// message was not noticed, and the row that was refused counted as archived.
// Cause: rows that are there already are told from new ones by the number of
// rows that the server says it changed.
func TestTheDSNCannotHideConflicts(t *testing.T) {
	at, err := parse(&Config{DSN: "mysql://u@db/perseid?clientFoundRows=true&multiStatements=true"})
	if err != nil {
		t.Fatal(err)
	}
	if at.mysql.ClientFoundRows || at.mysql.MultiStatements {
		t.Errorf("%+v", at.mysql)
	}
}
