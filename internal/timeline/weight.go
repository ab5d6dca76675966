package timeline

import "github.com/perseid-im/perseid/internal/message"

// entryOverhead is what an entry costs beside its strings and body, roughly
// the same in Redis, on the wire and in memory.
const entryOverhead = 96

// Weight is what a message counts for in limits given in bytes.
func Weight(m *message.Message) int {
	return entryOverhead + len(m.Body) + len(m.ClientID) + len(m.Operator) + len(m.Source)
}
