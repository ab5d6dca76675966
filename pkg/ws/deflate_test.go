package ws

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

const rsv1 = 0x40

// deflateAll is a compressed message as the standard library makes it.
func deflateAll(message []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err == nil {
		_, err = w.Write(message)
	}
	if err == nil {
		err = w.Flush()
	}
	body, ok := bytes.CutSuffix(out.Bytes(), []byte{0, 0, 0xFF, 0xFF})
	if err != nil || !ok {
		panic(fmt.Sprint("the standard library does not flush: ", err))
	}
	return body
}

// chatMessages is n packets' worth of a chat room.
func chatMessages(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("hello great stream wow gift nice first love this song haha from berlin welcome good game")
	var b strings.Builder
	for range n {
		fmt.Fprintf(&b, "\x00\x00\x00\xc8\x00\x10\x00\x01\x00\x00\x03\xe8\x00\x00\x00\x00"+
			`{"type":"chat","room":"live://17","from":{"id":%d,"name":"user%d","level":%d},"ts":%d,"text":"`,
			r.IntN(1e7), r.IntN(1e5), r.IntN(60), 1_700_000_000_000+r.IntN(1e6))
		for range 12 {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		b.WriteString(`"}`)
	}
	return b.String()
}

func deflateCases() []readerCase {
	var cases []readerCase
	add := func(name string, frames [][]byte, want ...string) {
		cases = append(cases, readerCase{name: "deflate " + name, deflate: true, max: 1000, frames: frames, want: want})
	}
	packed := func(message string) string { return string(deflateAll([]byte(message))) }

	// RFC 7692, section 7.2.3, as it stands there.
	add("7.2.3.1 one block", wireOf(cf(fin|rsv1|opText, "\xf2\x48\xcd\xc9\xc9\x07\x00")), text("Hello"))
	add("7.2.3.1 fragments", wireOf(cf(rsv1|opText, "\xf2\x48\xcd"), cf(fin|opCont, "\xc9\xc9\x07\x00")), text("Hello"))
	add("7.2.3.2 window of the message before, which was not agreed on", wireOf(cf(fin|rsv1|opText, "\xf2\x48\xcd\xc9\xc9\x07\x00"),
		cf(fin|rsv1|opText, "\xf2\x00\x11\x00\x00")), text("Hello"), failed(1007))
	add("7.2.3.3 stored block", wireOf(cf(fin|rsv1|opText, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00")), text("Hello"))
	add("7.2.3.4 final block", wireOf(cf(fin|rsv1|opText, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00")), text("Hello"))
	add("7.2.3.5 two blocks", wireOf(cf(fin|rsv1|opText, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00")), text("Hello"))
	add("7.2.3.6 empty", wireOf(cf(fin|rsv1|opText, "\x00")), text(""))

	add("plain messages between", wireOf(cf(fin|opText, "a"), cf(fin|rsv1|opBin, packed("b")), cf(fin|opBin, "c")), text("a"), binaryMsg("b"), binaryMsg("c"))
	add("control frames between fragments", wireOf(cf(rsv1|opBin, packed("message")[:3]), cf(fin|opPing, "p"), cf(fin|opCont, packed("message")[3:])), ping("p"), binaryMsg("message"))
	add("final block and nothing behind it", wireOf(cf(fin|rsv1|opText, "\xf3\x48\xcd\xc9\xc9\x07\x00")), text("Hello"))
	add("final blocks, at most 16", wireOf(cf(fin|rsv1|opBin, strings.Repeat("\x03\x00", 17)), cf(fin|rsv1|opBin, strings.Repeat("\x03\x00", 18))), binaryMsg(""), failed(1009))
	add("text", wireOf(cf(fin|rsv1|opText, packed("gr\u00fc\u00dfe"))), text("gr\u00fc\u00dfe"))
	add("text that is not UTF-8", wireOf(cf(fin|rsv1|opText, packed("\xff"))), failed(1007))
	add("characters cut by fragments", wireOf(cf(rsv1|opText, packed("\u20ac")[:2]), cf(fin|opCont, packed("\u20ac")[2:])), text("\u20ac"))
	add("nothing", wireOf(cf(fin|rsv1|opBin, "")), failed(1007))
	add("garbage", wireOf(cf(fin|rsv1|opBin, "\xff\xff\xff\xff")), failed(1007))
	add("cut short", wireOf(cf(fin|rsv1|opBin, packed("a message of some length, or so")[:10])), failed(1007))

	// Sizes: the limit is for what comes out, and nearly for what comes in.
	full := strings.Repeat("x", 1000)
	noise := string(randomBytes(1000))
	add("as long as allowed", wireOf(cf(fin|rsv1|opBin, packed(full))), binaryMsg(full))
	add("a byte too long", wireOf(cf(fin|rsv1|opBin, packed(full+"x"))), failed(1009))
	add("noise as long as allowed", wireOf(cf(fin|rsv1|opBin, packed(noise))), binaryMsg(noise))
	add("bomb", wireOf(cf(fin|rsv1|opBin, packed(strings.Repeat("x", 700_000)))), failed(1009))
	add("too long before it comes out", wireOf(cf(fin|rsv1|opBin, strings.Repeat("x", MaxDeflated(1000)+1))), failed(1009))
	add("too long in fragments", wireOf(cf(rsv1|opBin, strings.Repeat("x", 1000)), cf(fin|opCont, strings.Repeat("x", MaxDeflated(1000)-999))), failed(1009))
	add("plain messages have no allowance", wireOf(cf(fin|opBin, noise+"x")), failed(1009))

	// RSV1 where it has no meaning, and the other bits.
	add("rsv1 on a continuation", wireOf(cf(rsv1|opBin, "\x00"), cf(fin|rsv1|opCont, "")), failed(1002))
	add("rsv1 on a continuation of a plain message", wireOf(cf(opBin, "a"), cf(fin|rsv1|opCont, "b")), failed(1002))
	for _, op := range []byte{opClose, opPing, opPong, 3, 11} {
		add("rsv1 on a control frame", wireOf(cf(fin|rsv1|op, "")), failed(1002))
	}
	add("rsv2", wireOf(cf(fin|rsv1|0x20|opBin, "\x00")), failed(1002))
	add("rsv3", wireOf(cf(fin|0x10|opBin, "\x00")), failed(1002))
	cases = append(cases,
		readerCase{name: "rsv1 that was not agreed on", frames: wireOf(cf(fin|rsv1|opText, "\xf2\x48\xcd\xc9\xc9\x07\x00")), want: []string{failed(1002)}},
		readerCase{name: "deflate from a server", server: true, deflate: true, frames: wireOf(sf(fin|rsv1|opBin, packed("hi"))), want: []string{binaryMsg("hi")}})
	return cases
}

// What the Deflater writes is a frame of RFC 6455 that the standard library
// inflates.
func TestDeflater(t *testing.T) {
	var d Deflater
	for _, n := range []int{1, 2, 100, 1000} {
		for _, op := range []Opcode{OpText, OpBinary} {
			message := chatMessages(n)
			wire, ok := d.AppendFrame([]byte("before"), op, []byte(message))
			if !ok || string(wire[:6]) != "before" || len(wire) > len(message) {
				t.Fatalf("%d bytes become %d, %v", len(message), len(wire), ok)
			}
			wire = wire[6:]
			if wire[0] != fin|rsv1|byte(op) {
				t.Errorf("first byte %x", wire[0])
			}
			var r Reader
			r.InitClient(1 << 20)
			r.AllowDeflate()
			ev, used, err := r.Next(bytes.Clone(wire))
			if err != nil || used != len(wire) || !ev.Deflated || ev.Op != op {
				t.Fatalf("%+v, %d, %v", ev, used, err)
			}
			got, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(ev.Payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
			if err != nil || string(got) != message {
				t.Fatalf("%d bytes for %d, %v", len(got), len(message), err)
			}
		}
	}
}

// A message that does not shrink is left alone.
func TestDeflaterThatDoesNotHelp(t *testing.T) {
	var d Deflater
	for _, message := range []string{"", "a", "short", string(randomBytes(4000)), string(randomBytes(100_000))} {
		if wire, ok := d.AppendFrame([]byte("before"), OpBinary, []byte(message)); ok || string(wire) != "before" {
			t.Errorf("%d bytes become %d, %v", len(message), len(wire), ok)
		}
	}
}

// An Inflater grows with what comes out of it, to the limit and not beyond.
func TestInflaterIsBounded(t *testing.T) {
	bomb := Event{Op: OpBinary, Deflated: true, Payload: deflateAll(make([]byte, 64<<20))}
	var i Inflater
	for range 3 {
		_, err := i.Message(bomb, 100_000)
		if pe := (*ProtocolError)(nil); !errors.As(err, &pe) || pe.Code != CodeTooBig {
			t.Fatalf("got %v", err)
		}
	}
	if i.Held() > 100_001 {
		t.Errorf("%d bytes are held", i.Held())
	}
	// And is ready for the next message, with a smaller limit too.
	for _, limit := range []int{50, 5} {
		ev, err := i.Message(Event{Op: OpBinary, Deflated: true, Payload: deflateAll([]byte("Hello"))}, limit)
		if err != nil || string(ev.Payload) != "Hello" || ev.Deflated {
			t.Errorf("limit %d: %q, %v", limit, ev.Payload, err)
		}
	}
	if _, err := i.Message(Event{Op: OpBinary, Deflated: true, Payload: deflateAll([]byte("Hello"))}, 4); err == nil {
		t.Error("a message above the limit")
	}
	plain := Event{Kind: KindMessage, Op: OpBinary, Payload: []byte("as it is")}
	if ev, err := i.Message(plain, 3); err != nil || string(ev.Payload) != "as it is" {
		t.Errorf("a plain message: %+v, %v", ev, err)
	}
}

func TestAcceptDeflate(t *testing.T) {
	const yes, window = deflateAnswer, deflateAnswer + "; server_max_window_bits=15"
	for _, c := range []struct{ offers, want string }{
		{"", ""},
		{" , ,\t", ""},
		{"permessage-deflate", yes},
		{"permessage-deflate; client_max_window_bits", yes}, // Chromium, npm's ws
		{"permessage-deflate;client_max_window_bits=10", yes},
		{`permessage-deflate; client_max_window_bits="15"`, yes},
		{`permessage-deflate; client_max_window_bits="1\5"`, yes},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", yes},
		{"permessage-deflate; server_max_window_bits=15", window},
		{"permessage-deflate ;\tserver_max_window_bits = 15 ; client_max_window_bits ", window},
		{"x-webkit-deflate-frame, permessage-deflate", yes},
		{`other; a="b"; c, permessage-deflate`, yes},
		// RFC 7692, section 7.1.3: the alternatives of an offer, in the client's order
		{"permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate; client_max_window_bits", yes},
		{"permessage-deflate; server_max_window_bits=10,permessage-deflate; server_max_window_bits=15,permessage-deflate", window},
		// declined
		{"x-webkit-deflate-frame", ""},
		{"Permessage-Deflate", ""},
		{"permessage-deflate; unknown", ""},
		{"permessage-deflate; Client_max_window_bits", ""},
		{"permessage-deflate; server_max_window_bits", ""},
		{"permessage-deflate; server_max_window_bits=8", ""},
		{"permessage-deflate; server_max_window_bits=16", ""},
		{"permessage-deflate; server_max_window_bits=015", ""},
		{"permessage-deflate; client_max_window_bits=7", ""},
		{"permessage-deflate; client_max_window_bits=16", ""},
		{"permessage-deflate; client_max_window_bits=08", ""},
		{"permessage-deflate; client_max_window_bits=x", ""},
		{"permessage-deflate; client_no_context_takeover=1", ""},
		{"permessage-deflate; server_no_context_takeover=true", ""},
		{"permessage-deflate; client_max_window_bits; client_max_window_bits", ""},
		{"permessage-deflate; server_no_context_takeover; server_no_context_takeover", ""},
		// no list of extensions
		{";", "400"},
		{"permessage-deflate;", "400"},
		{"permessage-deflate; ,", "400"},
		{"permessage-deflate; client_max_window_bits=", "400"},
		{"permessage-deflate client_max_window_bits", "400"},
		{`permessage-deflate; client_max_window_bits="15`, "400"},
		{`permessage-deflate; client_max_window_bits=""`, "400"},
		{`permessage-deflate; client_max_window_bits="1 5"`, "400"},
		{`permessage-deflate; client_max_window_bits="15"5`, "400"},
		{"permessage-deflate, caf\u00e9", "400"},
		{"permessage-deflate; =1", "400"},
		{`"permessage-deflate"`, "400"},
	} {
		answer, err := AcceptDeflate(c.offers)
		if err != nil && answer == "" {
			answer = fmt.Sprint(statusOf(err))
		}
		if answer != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.offers, answer, c.want)
		}
	}
}

func TestAppendUpgradeWith(t *testing.T) {
	got := string(AppendUpgradeWith(nil, sampleHandshake(), deflateAnswer))
	want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}

// FuzzAcceptDeflate: the verdict is that of the model.
func FuzzAcceptDeflate(f *testing.F) {
	for _, s := range []string{
		"", "permessage-deflate", "permessage-deflate; client_max_window_bits", `a; b="c\"", permessage-deflate; server_max_window_bits=15`,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate", ";;", "a b", `a;b="`, "permessage-deflate; client_max_window_bits=08",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, offers string) {
		answer, err := AcceptDeflate(offers)
		if err != nil {
			if answer != "" {
				t.Fatalf("%q: %q with %v", offers, answer, err)
			}
			answer = fmt.Sprint(statusOf(err))
		}
		if want := modelAccept(offers); answer != want {
			t.Fatalf("%q: got %q, want %q", offers, answer, want)
		}
	})
}

// FuzzInflate: damaged or not, no more comes out than is allowed, and what
// comes out is what the standard library says.
func FuzzInflate(f *testing.F) {
	for _, c := range deflateCases() {
		for _, frame := range c.frames {
			if len(frame) > 6 && len(frame) < 130 {
				f.Add(bytes.Clone(frame[6:]), uint16(100))
			}
		}
	}
	f.Add(deflateAll([]byte(chatMessages(3))), uint16(4000))
	f.Add(deflateAll(make([]byte, 100_000)), uint16(60_000))
	f.Add(deflateAll(randomBytes(500)), uint16(500))
	var i Inflater // one for all, as on a loop
	f.Fuzz(func(t *testing.T, payload []byte, limit uint16) {
		before := bytes.Clone(payload)
		ev, err := i.Message(Event{Kind: KindMessage, Op: OpBinary, Deflated: true, Payload: payload}, int(limit))
		if !bytes.Equal(before, payload) {
			t.Fatal("the payload was changed")
		}
		if i.Held() > 1<<16 {
			t.Fatalf("%d bytes are held", i.Held())
		}
		want, code := modelInflate(payload, int(limit))
		// How much comes out in front of the damage is up to the library, so one
		// may see the damage first and the other one the size.
		pe := (*ProtocolError)(nil)
		if errors.As(err, &pe) != (code != 0) || (pe != nil && pe.Code != CodeInvalidUTF8 && pe.Code != CodeTooBig) {
			t.Fatalf("got %v, want code %d", err, code)
		}
		if err == nil && !bytes.Equal(ev.Payload, want) {
			t.Fatalf("got %x, want %x", ev.Payload, want)
		}
	})
}
