package load

import "encoding/binary"

// Operations of the pushes, by addressee.
const (
	OpRoom int32 = 1000
	OpUser int32 = 1001
	OpAll  int32 = 1002
)

// StampLen is the least body of a push: with goim's header a frame of 28 bytes.
const StampLen = 12

// MaxStreams bounds the publishers of one addressee.
const MaxStreams = 256

// Stamp is the body of a push, before its padding.
type Stamp struct {
	DueNS  int64  // by Clock
	Stream uint8  // publisher of this addressee
	Seq    uint32 // 24 bits, from 0, per addressee and stream
}

// PutStamp writes s to the first StampLen bytes of body.
func PutStamp(body []byte, s Stamp) {
	binary.BigEndian.PutUint64(body, uint64(s.DueNS))
	binary.BigEndian.PutUint32(body[8:], uint32(s.Stream)<<24|s.Seq&0xffffff)
}

// ReadStamp is the other direction.
func ReadStamp(body []byte) Stamp {
	w := binary.BigEndian.Uint32(body[8:])
	return Stamp{DueNS: int64(binary.BigEndian.Uint64(body)), Stream: uint8(w >> 24), Seq: w & 0xffffff}
}
