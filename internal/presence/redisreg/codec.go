package redisreg

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/perseid-im/perseid/internal/presence"
)

// Keys. Those of a user share a hash tag with the user's other keys.
const (
	nodesKey      = "nodes"
	broadcastsKey = "broadcasts"
	canceledKey   = "broadcasts:canceled"
)

func keyKey(key string) string    { return "key:" + key }
func roomsKey(node string) string { return "rooms:" + node }

func userKey(mid int64) string {
	b := make([]byte, 0, 32)
	b = append(b, "pres:{u:"...)
	b = strconv.AppendInt(b, mid, 10)
	return string(append(b, '}'))
}

// identity is <node><sep><incarnation><sep><session>: sep '|' behind the mid
// in the value of a key, '/' in the field of a user.
func identity(node presence.Node, session uint64, sep byte) string {
	b := make([]byte, 0, len(node.Name)+42)
	b = append(b, node.Name...)
	b = strconv.AppendUint(append(b, sep), node.Incarnation, 10)
	b = strconv.AppendUint(append(b, sep), session, 10)
	return string(b)
}

// keyPrefix is what stands before the identity in the value of a key: the mid,
// and by which process of Redis the key was named, as far as that is known.
func keyPrefix(mid int64, run string) string {
	prefix := strconv.FormatInt(mid, 10)
	if run != "" {
		prefix += "@" + run
	}
	return prefix
}

func keyValue(node presence.Node, s presence.Session, run string) string {
	return keyPrefix(s.Mid, run) + "|" + identity(node, s.ID, '|')
}

// keyRun is the process of Redis in the value of a key; "" = not known.
func keyRun(value []byte) string {
	prefix, _, _ := bytes.Cut(value, []byte{'|'})
	_, run, _ := bytes.Cut(prefix, []byte{'@'})
	return string(run)
}

// place is a parsed identity; node aliases what was parsed.
type place struct {
	node        []byte
	incarnation uint64
	session     uint64
}

// is tells whether the place is on this life of the node.
func (p place) is(node presence.Node) bool {
	return p.incarnation == node.Incarnation && string(p.node) == node.Name
}

// parseKeyValue reads what keyValue wrote.
func parseKeyValue(value []byte) (place, bool) {
	_, id, ok := bytes.Cut(value, []byte{'|'})
	if !ok {
		return place{}, false
	}
	return parseIdentity(id, '|')
}

// parseIdentity reads from the right, so that the name may contain anything.
func parseIdentity(id []byte, sep byte) (place, bool) {
	last := bytes.LastIndexByte(id, sep)
	if last < 0 {
		return place{}, false
	}
	first := bytes.LastIndexByte(id[:last], sep)
	if first < 0 {
		return place{}, false
	}
	incarnation, ok1 := parseUint(id[first+1 : last])
	session, ok2 := parseUint(id[last+1:])
	return place{node: id[:first], incarnation: incarnation, session: session}, ok1 && ok2
}

// parseUint is strconv.ParseUint without the conversion to a string.
func parseUint(digits []byte) (uint64, bool) {
	if len(digits) == 0 {
		return 0, false
	}
	var n uint64
	for _, d := range digits {
		if d < '0' || d > '9' || n > (math.MaxUint64-uint64(d-'0'))/10 {
			return 0, false
		}
		n = n*10 + uint64(d-'0')
	}
	return n, true
}

// nodeRecord is the part of a NodeInfo that scripts do not look at.
type nodeRecord struct {
	GRPCAddr    string   `json:"grpc_addr"`
	Region      string   `json:"region,omitempty"`
	Zone        string   `json:"zone,omitempty"`
	Env         string   `json:"env,omitempty"`
	Hostname    string   `json:"hostname,omitempty"`
	PublicAddrs []string `json:"public_addrs,omitempty"`
	Weight      int64    `json:"weight"`
	Offline     bool     `json:"offline,omitempty"`
	ConnCount   int64    `json:"conn_count"`
	IPCount     int64    `json:"ip_count"`
}

func encodeNode(info presence.NodeInfo) ([]byte, error) {
	return json.Marshal(nodeRecord{
		GRPCAddr: info.GRPCAddr, Region: info.Region, Zone: info.Zone, Env: info.Env, Hostname: info.Hostname,
		PublicAddrs: info.PublicAddrs, Weight: info.Weight, Offline: info.Offline,
		ConnCount: info.ConnCount, IPCount: info.IPCount,
	})
}

// leaseEnd reads when a lease ends, Unix milliseconds.
func leaseEnd(value []byte) (uint64, bool) {
	ends, _, ok := bytes.Cut(value, []byte{'|'})
	if !ok {
		return 0, false
	}
	return parseUint(ends)
}

// decodeNode reads what lease.lua wrote; run is the process of Redis that did.
func decodeNode(name string, value []byte) (info presence.NodeInfo, run string, ok bool) {
	parts := bytes.SplitN(value, []byte{'|'}, 5)
	if len(parts) != 5 {
		return presence.NodeInfo{}, "", false
	}
	updated, ok1 := parseUint(parts[1])
	incarnation, ok2 := parseUint(parts[2])
	var rec nodeRecord
	if !ok1 || !ok2 || updated > math.MaxInt64 || json.Unmarshal(parts[4], &rec) != nil {
		return presence.NodeInfo{}, "", false
	}
	return presence.NodeInfo{
		Node:     presence.Node{Name: name, Incarnation: incarnation},
		GRPCAddr: rec.GRPCAddr, Region: rec.Region, Zone: rec.Zone, Env: rec.Env, Hostname: rec.Hostname,
		PublicAddrs: rec.PublicAddrs, Weight: rec.Weight, Offline: rec.Offline,
		ConnCount: rec.ConnCount, IPCount: rec.IPCount, UpdatedMS: int64(updated),
	}, string(parts[3]), true
}

// errRooms is a value of rooms:<node> that cannot be read.
var errRooms = errors.New("malformed room counts")

// encodeRooms writes the incarnation and then, per room, the length of its
// name, the name and the count as varints. A node may have 100,000 rooms, and
// writes them every few seconds: JSON costs ten times as much.
func encodeRooms(incarnation uint64, counts map[string]int32) []byte {
	size := binary.MaxVarintLen64
	for room := range counts {
		size += len(room) + 2*binary.MaxVarintLen32
	}
	b := binary.AppendUvarint(make([]byte, 0, size), incarnation)
	for room, count := range counts {
		if count <= 0 {
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(room)))
		b = append(b, room...)
		b = binary.AppendUvarint(b, uint64(count))
	}
	return b
}

// addRooms adds the counts in value to sum, if they are of this incarnation.
// A sum beyond the int32 range stays at its end.
func addRooms(sum map[string]int32, value []byte, incarnation uint64) error {
	uvarint := func() (uint64, bool) {
		v, n := binary.Uvarint(value)
		if n <= 0 {
			return 0, false
		}
		value = value[n:]
		return v, true
	}
	written, ok := uvarint()
	if !ok {
		return errRooms
	}
	if written != incarnation {
		return nil
	}
	for len(value) > 0 {
		size, ok := uvarint()
		if !ok || size > uint64(len(value)) {
			return fmt.Errorf("%w: length of a name", errRooms)
		}
		room := value[:size]
		value = value[size:]
		count, ok := uvarint()
		if !ok || count > math.MaxInt32 {
			return fmt.Errorf("%w: count", errRooms)
		}
		sum[string(room)] = int32(min(int64(sum[string(room)])+int64(count), math.MaxInt32))
	}
	return nil
}
