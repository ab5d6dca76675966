package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// chaosConfig is the load and the faults of a run. PERSEID_TEST_CHAOS changes it:
// "long" first, for the run of make e2e, then any of its names, such as
// "long seed=7 kills=5 clients=2000".
type chaosConfig struct {
	long       bool
	seed       int
	producers  int // over HTTP
	publishers int // clients that publish over their connection
	inboxes    int
	rooms      int
	clients    int // each follows one inbox and one room
	rate       int // messages a second of all producers
	kills      int // of job, of logic and of comet, each
	redis      int // restarts with AOF, restarts empty, failovers, each
	flushes    int
	frozen     int // of job and of logic, each: stopped by SIGSTOP for longer than a session of Kafka
	together   int // of several faults at one moment, each
	kafka      int // restarts of the broker
	mariadb    int // times that it is away
	away       int // seconds that MariaDB is away, the last time
	gap        int // milliseconds between two faults, on average
	report     string
}

func chaosSettings(t *testing.T) chaosConfig {
	t.Helper()
	words := strings.Fields(os.Getenv("PERSEID_TEST_CHAOS"))
	c := chaosConfig{seed: 1, producers: 20, publishers: 4, inboxes: 30, rooms: 4, clients: 60, rate: 100, kills: 1, redis: 1, flushes: 1, together: 1, gap: 1000}
	if len(words) > 0 && words[0] == "long" {
		words = words[1:]
		c = chaosConfig{
			long: true, seed: 1, producers: 50, publishers: 10, inboxes: 100, rooms: 10, clients: 200, rate: 100,
			kills: 20, redis: 3, flushes: 1, frozen: 2, together: 2, kafka: 2, mariadb: 2, away: 120, gap: 4000, report: "results/chaos.md",
		}
	}
	numbers := map[string]*int{
		"seed": &c.seed, "producers": &c.producers, "publishers": &c.publishers, "inboxes": &c.inboxes, "rooms": &c.rooms,
		"clients": &c.clients, "rate": &c.rate, "kills": &c.kills, "redis": &c.redis, "flushes": &c.flushes, "frozen": &c.frozen, "together": &c.together, "kafka": &c.kafka,
		"mariadb": &c.mariadb, "away": &c.away, "gap": &c.gap,
	}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		if name == "report" {
			c.report = value
			continue
		}
		n, err := strconv.Atoi(value)
		if numbers[name] == nil || err != nil || n < 0 {
			t.Fatalf("PERSEID_TEST_CHAOS: %q: not a number of the load or of the faults", w)
		}
		*numbers[name] = n
	}
	return c
}

func (c chaosConfig) String() string {
	return fmt.Sprintf("seed %d; %d producers over HTTP (%d messages/s together), %d publishing clients; %d clients over %d inboxes and %d rooms; two of each daemon",
		c.seed, c.producers, c.rate, c.publishers, c.clients, c.inboxes, c.rooms)
}

// pause is the time between two faults, by a random number.
func (c chaosConfig) pause(random float64) time.Duration {
	return time.Duration((0.25 + 1.5*random) * float64(c.gap) * float64(time.Millisecond))
}
