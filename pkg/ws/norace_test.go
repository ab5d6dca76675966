//go:build !race

package ws

import "testing"

// The compressor's own pools forget at random under the race detector.
func TestDeflaterAllocations(t *testing.T) {
	chat := []byte(chatMessages(20))
	dst := make([]byte, 0, len(chat))
	var d Deflater
	if got := testing.AllocsPerRun(500, func() { dst, _ = d.AppendFrame(dst[:0], OpBinary, chat) }); got > 0 {
		t.Errorf("%v allocations", got)
	}
}
