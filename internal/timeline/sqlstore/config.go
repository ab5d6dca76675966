package sqlstore

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Config is the section of the archive.
type Config struct {
	DSN        string        `toml:"dsn" secret:"true" doc:"database of the archive: mysql://user:password@host:port/database (MySQL, MariaDB, TiDB; made when it is missing), sqlite:PATH of a file for one process, in a folder that is there, or empty for no archive"`
	MaxConns   int           `toml:"max_conns" doc:"most connections at a time, callers wait for one beyond it; 2 to 1024"`
	Sync       bool          `toml:"sync" doc:"SQLite only: write each commit to the disk before it is acknowledged, to survive a power failure; true or false"`
	DialWithin time.Duration `toml:"dial_timeout" doc:"time to connect; duration; 10ms to 1m"`
	LockWithin time.Duration `toml:"lock_timeout" doc:"how long a transaction waits for another one; duration; 1s to 1m"`
}

// DefaultConfig has no archive.
func DefaultConfig() Config {
	return Config{MaxConns: 32, Sync: true, DialWithin: 5 * time.Second, LockWithin: 20 * time.Second}
}

// On tells whether an archive is configured.
func (c *Config) On() bool { return c.DSN != "" }

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	if c.On() {
		if _, err := parse(c); err != nil {
			bad("dsn", "***", err.Error())
		}
	}
	if c.MaxConns < 2 || c.MaxConns > 1024 {
		bad("max_conns", c.MaxConns, "2 to 1024")
	}
	if c.DialWithin < 10*time.Millisecond || c.DialWithin > time.Minute {
		bad("dial_timeout", c.DialWithin, "10ms to 1m")
	}
	if c.LockWithin < time.Second || c.LockWithin > time.Minute {
		bad("lock_timeout", c.LockWithin, "1s to 1m")
	}
	return problems
}

const (
	mysqlScheme  = "mysql://"
	sqliteScheme = "sqlite:"
)

var errDSN = errors.New("mysql://user:password@host:port/database, sqlite:PATH or nothing")

// location is a DSN, taken apart: one of the two is set.
type location struct {
	mysql  *mysql.Config
	sqlite string // as a URI
}

// parse never puts a part of the DSN into its error: there may be a password
// in it.
func parse(c *Config) (location, error) {
	if path, ok := strings.CutPrefix(c.DSN, sqliteScheme); ok {
		if path == "" || path == ":memory:" {
			return location{}, errors.New("sqlite:PATH of a file")
		}
		return location{sqlite: "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)}, nil
	}
	if !strings.HasPrefix(c.DSN, mysqlScheme) {
		return location{}, errDSN
	}
	u, err := url.Parse(c.DSN)
	if err != nil {
		return location{}, errDSN
	}
	database := strings.TrimPrefix(u.Path, "/")
	if u.Hostname() == "" || database == "" || strings.ContainsAny(database, "/`") {
		return location{}, errDSN
	}
	m, err := mysql.ParseDSN("/?" + u.RawQuery)
	if err != nil {
		return location{}, errors.New("its parameters are not those of the MySQL driver")
	}
	m.Net, m.Addr, m.DBName = "tcp", u.Host, database
	if u.Port() == "" {
		m.Addr = u.Host + ":3306"
	}
	m.User = u.User.Username()
	m.Passwd, _ = u.User.Password()
	// Values are put into the text of a query by the driver: one round trip
	// instead of three.
	m.InterpolateParams = true
	m.MultiStatements = false
	// Write tells new rows from those that are there by how many were changed.
	m.ClientFoundRows = false
	m.Timeout = c.DialWithin
	if m.Params == nil {
		m.Params = map[string]string{}
	}
	// What does not fit a column is an error, never cut off.
	m.Params["sql_mode"] = "'STRICT_ALL_TABLES'"
	if m.ReadTimeout == 0 {
		m.ReadTimeout = c.LockWithin + 10*time.Second // a server may be silent for a lock; longer, it hangs
	}
	m.Params["innodb_lock_wait_timeout"] = strconv.Itoa(int(c.LockWithin / time.Second))
	m.Logger = &mysql.NopLogger{} // what it would log is returned as well
	return location{mysql: m}, nil
}
