package timeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perseid-im/perseid/internal/message"
)

// Config is what the store decides by. All logics of a cluster must have the
// same: a timeline whose mode they do not agree on changes its epoch again and
// again.
type Config struct {
	RoomArchive  string            `toml:"room_archive" doc:"what the archive is to a room whose type has no line in room_types; required, best_effort or off"`
	RoomTypes    map[string]string `toml:"room_types" doc:"what the archive is to the rooms of a type (the part before ://); required, best_effort or off"`
	InboxEntries int               `toml:"inbox_entries" doc:"entries of an inbox that stay in the window, beside what is not archived; count; 16 to 10000"`
	RoomEntries  int               `toml:"room_entries" doc:"entries of a room that stay in the window, beside what is not archived; count; 16 to 10000"`
	WindowBytes  int64             `toml:"window_bytes" doc:"bytes of a timeline that stay in the window, beside what is not archived; 65536 to 1073741824"`
	HardEntries  int               `toml:"hard_entries" doc:"entries of a timeline that may wait for the archive before its partition waits; count; at least inbox_entries and room_entries, at most 1000000"`
	HardBytes    int64             `toml:"hard_bytes" doc:"bytes of a timeline that may wait for the archive before its partition waits; window_bytes to 1073741824"`

	FlushInterval time.Duration `toml:"flush_interval" doc:"how often moved cursors are saved in the archive; duration; 10ms to 1m"`
	MaxMembers    int           `toml:"max_members" doc:"most durable members of a room; count; 1 to 100000000"`
	JoinHistory   bool          `toml:"join_history" doc:"whether a member sees what was said before it joined; true or false"`
}

// DefaultConfig archives everything.
func DefaultConfig() Config {
	return Config{
		RoomArchive:   "required",
		InboxEntries:  256,
		RoomEntries:   1024,
		WindowBytes:   1 << 20,
		HardEntries:   20_000,
		HardBytes:     32 << 20,
		FlushInterval: time.Second,
		MaxMembers:    1_000_000,
	}
}

var modeNames = [...]string{Off: "off", BestEffort: "best_effort", Required: "required"}

// String is the mode as the configuration spells it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "unknown"
}

// ParseMode reads what String writes.
func ParseMode(name string) (Mode, bool) {
	i := slices.Index(modeNames[:], name)
	return Mode(max(i, 0)), i >= 0
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	const modes = "required, best_effort or off"
	if _, ok := ParseMode(c.RoomArchive); !ok {
		bad("room_archive", fmt.Sprintf("%q", c.RoomArchive), modes)
	}
	for _, kind := range slices.Sorted(maps.Keys(c.RoomTypes)) {
		if _, ok := ParseMode(c.RoomTypes[kind]); !ok {
			bad("room_types."+kind, fmt.Sprintf("%q", c.RoomTypes[kind]), modes)
		}
		if kind == "" || strings.Contains(kind, "://") {
			bad("room_types", fmt.Sprintf("%q", kind), "types are not empty and have no ://")
		}
	}
	if c.InboxEntries < 16 || c.InboxEntries > 10_000 {
		bad("inbox_entries", c.InboxEntries, "16 to 10000")
	}
	if c.RoomEntries < 16 || c.RoomEntries > 10_000 {
		bad("room_entries", c.RoomEntries, "16 to 10000")
	}
	if c.WindowBytes < 64<<10 || c.WindowBytes > 1<<30 {
		bad("window_bytes", c.WindowBytes, "65536 to 1073741824")
	}
	if c.HardEntries < max(c.InboxEntries, c.RoomEntries) || c.HardEntries > 1_000_000 {
		bad("hard_entries", c.HardEntries, "at least inbox_entries and room_entries, at most 1000000")
	}
	if c.HardBytes < c.WindowBytes || c.HardBytes > 1<<30 {
		bad("hard_bytes", c.HardBytes, "window_bytes to 1073741824")
	}
	if c.FlushInterval < 10*time.Millisecond || c.FlushInterval > time.Minute {
		bad("flush_interval", c.FlushInterval, "10ms to 1m")
	}
	if c.MaxMembers < 1 || c.MaxMembers > 100_000_000 {
		bad("max_members", c.MaxMembers, "1 to 100000000")
	}
	return problems
}

// ModeOf says what the archive is to a timeline: inboxes and pushes to all are
// always archived where there is an archive, rooms by their type.
func (s *Store) ModeOf(tl message.Timeline) Mode {
	if s.archive == nil {
		return Off
	}
	key, room := tl.Room()
	if !room || tl == message.AllTimeline {
		return Required
	}
	kind, _, _ := message.SplitRoomKey(key)
	if mode, ok := s.modes[kind]; ok {
		return mode
	}
	return s.roomMode
}

func (s *Store) keepOf(tl message.Timeline) Keep {
	k := Keep{Entries: s.cfg.InboxEntries, Bytes: s.cfg.WindowBytes, HardEntries: s.cfg.HardEntries, HardBytes: s.cfg.HardBytes}
	if _, room := tl.Room(); room {
		k.Entries = s.cfg.RoomEntries
	}
	return k
}
