package load

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Class is a set of connections that behave alike and are reported together.
type Class struct {
	Name  string
	Conns int // over all processes
	// Rooms: connection i is in room "bench://<RoomPrefix><i mod Rooms>"; 0 =
	// in none.
	Rooms      int
	RoomPrefix string
	// Timed connections are read as soon as something comes and their pushes
	// are timed; they are spread evenly over the class. -1 = all.
	Timed int
	// BytesPerSecond bounds what each connection of the class reads; 0 = all
	// there is, -1 = it stops reading after auth.
	BytesPerSecond int
	// RecvBuffer is the socket's receive buffer in bytes; 0 = the system's.
	RecvBuffer int
}

// RoomType is the type of all rooms of the benchmarks.
const RoomType = "bench"

// Room is the name, without type, of the i-th room of a class.
func (c *Class) Room(i int) string { return c.RoomPrefix + strconv.Itoa(i) }

// Config describes a fleet, or the part of it that one process has.
type Config struct {
	Servers   []string // host:port, the connections are spread over them
	WebSocket bool
	Path      string // of the WebSocket handshake
	Sources   int    // local addresses 127.0.0.1 ... to connect from; 0 = the system's choice
	Classes   []Class
	FirstMid  int64 // of connection 0; 0 = no user ids
	Keys      bool  // connections name their keys, KeyOf, which takes a FirstMid
	Streams   int   // publishers per addressee, at most
	// Drain is how often connections that are not timed are read.
	Drain     time.Duration
	Heartbeat time.Duration // 0 = none
	// AuthTimeout is from connect to the answer to auth.
	AuthTimeout time.Duration
	Loops       int
	// Part of Parts: this process has the connections whose number is Part
	// modulo Parts.
	Part, Parts int
}

func (c *Config) validate() error {
	if len(c.Servers) == 0 {
		return errors.New("load: no server")
	}
	for _, s := range c.Servers {
		if _, err := netip.ParseAddrPort(s); err != nil {
			return fmt.Errorf("load: server %q: allowed is IP:port: %w", s, err)
		}
	}
	if c.Keys && c.FirstMid == 0 {
		return errors.New("load: keys are made of user ids, and there are none")
	}
	if c.Streams < 1 || c.Streams > MaxStreams {
		return fmt.Errorf("load: streams = %d: allowed is 1 to %d", c.Streams, MaxStreams)
	}
	if c.Loops < 1 || c.Parts < 1 || c.Part < 0 || c.Part >= c.Parts || c.Sources < 0 || c.Sources > 250 {
		return fmt.Errorf("load: loops = %d, part %d of %d, sources = %d: not allowed", c.Loops, c.Part, c.Parts, c.Sources)
	}
	if len(c.Classes) == 0 || len(c.Classes) > 256 {
		return fmt.Errorf("load: %d classes", len(c.Classes))
	}
	if c.Drain <= 0 || c.AuthTimeout <= 0 {
		return fmt.Errorf("load: drain = %s, auth timeout = %s: not allowed", c.Drain, c.AuthTimeout)
	}
	return nil
}

// otherFiles are those of a client process that are no connections: its
// pipes, its pollers and what Go keeps open.
const otherFiles = 64

// fits tells, before anything is made, whether the process may open its share
// of the connections.
func (c *Config) fits() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("load: the open-file limit: %w", err)
	}
	all := 0
	for i := range c.Classes {
		all += c.Classes[i].Conns
	}
	if most := int(min(limit.Cur, 1<<30)) - otherFiles; (all+c.Parts-1)/c.Parts > most {
		return fmt.Errorf("load: %d connections in %d processes: the open-file limit of %d allows %d in each", all, c.Parts, limit.Cur, most)
	}
	return nil
}

// isTimed spreads the timed connections evenly over the class, and so over its
// rooms: the members of a room follow each other here.
func (c *Class) isTimed(number int) bool {
	if c.Timed < 0 || c.Timed >= c.Conns {
		return true
	}
	if rooms := min(c.Rooms, c.Conns); rooms > 1 {
		room, bigger := number%rooms, c.Conns%rooms // so many rooms have a member more
		number = number/rooms + room*(c.Conns/rooms) + min(room, bigger)
	}
	return number*c.Timed/c.Conns != (number+1)*c.Timed/c.Conns
}

// Ramp says how fast connections are opened.
type Ramp struct {
	InFlight  int     // connections between connect and the answer to auth, per process
	PerSecond float64 // 0 = as fast as InFlight allows
}

// By says what the numbers of a stream are counted by.
type By uint8

// Messages are numbered per room, per connection (user), or for everybody.
const (
	ByRoom By = iota
	ByConn
	ByAll
)

// Expect is what was published to a class: what of it did not come is lost.
type Expect struct {
	Class  int
	Stream int
	By     By
	Counts []uint32 // next number, by room or connection of the class; one of ByAll
}

// ClassStats counts since Begin, but for the connections.
type ClassStats struct {
	Name       string
	Conns      int // that the class shall have
	Ready      int // authenticated and open
	Received   uint64
	Duplicates uint64
	Inversions uint64
	Ambiguous  uint64 // seen before or very late
	Late       uint64 // due before Begin
	Unknown    uint64 // without a stamp
	Lost       uint64 // after Tally
	// LostCut are those missing on connections that ended.
	LostCut uint64
	Silent  int // came later and have seen no message
	// ClosedByServer counts connections; Codes are WebSocket close codes.
	ClosedByServer int
	Codes          map[uint16]int
	Churned        int // closed and opened again by Churn
	Latency        Hist
}

// Stats are those of a fleet.
type Stats struct {
	Classes         []ClassStats
	Bytes, Reads    uint64
	Heartbeats      uint64
	HeartbeatEchoes uint64
	Auth            Hist           // from connect to the answer, of all connections ever opened
	LastAuthNS      int64          // when the latest connection got ready
	Failures        map[string]int // connections that did not get ready, by reason
	Pending         int            // connections that are not open yet
	LoopCPU         []time.Duration
	ProcessCPU      time.Duration
	DrainMax        time.Duration // longest time for one round over the connections that are not timed
	AtNS            int64
}

// merge adds what another process counted.
func (s *Stats) merge(o *Stats) {
	if s.Classes == nil {
		s.Classes = make([]ClassStats, len(o.Classes))
	}
	for i := range o.Classes {
		s.Classes[i].merge(&o.Classes[i])
	}
	s.Bytes += o.Bytes
	s.Reads += o.Reads
	s.Heartbeats += o.Heartbeats
	s.HeartbeatEchoes += o.HeartbeatEchoes
	s.Auth.Merge(&o.Auth)
	s.LastAuthNS = max(s.LastAuthNS, o.LastAuthNS)
	s.Failures = addCounts(s.Failures, o.Failures)
	s.Pending += o.Pending
	s.LoopCPU = append(s.LoopCPU, o.LoopCPU...)
	s.ProcessCPU += o.ProcessCPU
	s.DrainMax = max(s.DrainMax, o.DrainMax)
	s.AtNS = max(s.AtNS, o.AtNS)
}

func (c *ClassStats) merge(o *ClassStats) {
	c.Name = o.Name
	c.Conns += o.Conns
	c.Ready += o.Ready
	c.Received += o.Received
	c.Duplicates += o.Duplicates
	c.Inversions += o.Inversions
	c.Ambiguous += o.Ambiguous
	c.Late += o.Late
	c.Unknown += o.Unknown
	c.Lost += o.Lost
	c.LostCut += o.LostCut
	c.Silent += o.Silent
	c.ClosedByServer += o.ClosedByServer
	c.Codes = addCounts(c.Codes, o.Codes)
	c.Churned += o.Churned
	c.Latency.Merge(&o.Latency)
}

func addCounts[K comparable](to, from map[K]int) map[K]int {
	if to == nil && len(from) > 0 {
		to = make(map[K]int, len(from))
	}
	for k, n := range from {
		to[k] += n
	}
	return to
}
