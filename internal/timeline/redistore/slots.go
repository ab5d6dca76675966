package redistore

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"
)

const slotCount = 16384

// slotOf is the slot of a key: of its tag, if it has one.
func slotOf(key string) int {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			key = key[open+1 : open+1+n]
		}
	}
	return int(crc16(key)) % slotCount
}

// crc16 is CRC-16/XMODEM, as Redis Cluster defines it.
func crc16(text string) (crc uint16) {
	for i := range len(text) {
		crc ^= uint16(text[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// slotRange says which master has the slots from first to last.
type slotRange struct {
	first, last int
	addr        string
}

// slotMap is a cluster at one moment: ranges in order.
type slotMap []slotRange

// owner is the master of a slot; "" = none.
func (m slotMap) owner(slot int) string {
	i, _ := slices.BinarySearchFunc(m, slot, func(r slotRange, slot int) int { return r.last - slot })
	if i < len(m) && m[i].first <= slot {
		return m[i].addr
	}
	return ""
}

// masters are all addresses, each once.
func (m slotMap) masters() []string {
	var addrs []string
	for _, r := range m {
		if !slices.Contains(addrs, r.addr) {
			addrs = append(addrs, r.addr)
		}
	}
	return addrs
}

// parseSlots reads the reply to CLUSTER SLOTS. A node without a name is the
// one that was asked.
func parseSlots(asked string, reply any) (slotMap, error) {
	ranges, err := redis.Values(reply, nil)
	if err != nil {
		return nil, err
	}
	var m slotMap
	for _, r := range ranges {
		parts, err := redis.Values(r, nil)
		if err != nil || len(parts) < 3 {
			return nil, errReply
		}
		first, err1 := redis.Int(parts[0], nil)
		last, err2 := redis.Int(parts[1], nil)
		node, err3 := redis.Values(parts[2], nil)
		if err1 != nil || err2 != nil || err3 != nil || len(node) < 2 || first < 0 || last < first || last >= slotCount {
			return nil, errReply
		}
		host, _ := redis.String(node[0], nil)
		port, err := redis.Int(node[1], nil)
		if err != nil {
			return nil, errReply
		}
		if host == "" {
			if host, _, err = net.SplitHostPort(asked); err != nil {
				return nil, err
			}
		}
		m = append(m, slotRange{first, last, net.JoinHostPort(host, strconv.Itoa(port))})
	}
	if len(m) == 0 {
		return nil, fmt.Errorf("%w: a cluster without slots", errReply)
	}
	slices.SortFunc(m, func(a, b slotRange) int { return a.first - b.first })
	return m, nil
}

// snapshot is the incarnation of a cluster: that of each range of slots. It is
// text: "first-last=token" with spaces between.
type snapshot []snapshotRange

type snapshotRange struct {
	first, last int
	token       string
}

func (s snapshot) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = fmt.Sprintf("%d-%d=%s", r.first, r.last, r.token)
	}
	return strings.Join(parts, " ")
}

func parseSnapshot(text string) (snapshot, bool) {
	var s snapshot
	for part := range strings.FieldsSeq(text) {
		span, token, ok1 := strings.Cut(part, "=")
		first, last, ok2 := strings.Cut(span, "-")
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if !ok1 || !ok2 || err1 != nil || err2 != nil {
			return nil, false
		}
		s = append(s, snapshotRange{a, b, token})
	}
	return s, true
}

// token is what a slot's server was; one that nobody had then has none, which
// no server is.
func (s snapshot) token(slot int) string {
	i, _ := slices.BinarySearchFunc(s, slot, func(r snapshotRange, slot int) int { return r.last - slot })
	if i < len(s) && s[i].first <= slot {
		return s[i].token
	}
	return ""
}
