package ws

import (
	"testing"
	"unicode/utf8"
)

// Texts after Autobahn's section 6 (Markus Kuhn's stress test and the borders of
// RFC 3629), whole and cut at every place.
var (
	validTexts = []string{
		"", "Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!!",
		"\u03ba\u1f79\u03c3\u03bc\u03b5", "\x00", "\x7f",
		"\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xef\xbf\xbf",
		"\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xf0\x9d\x84\x9e", "\xef\xbb\xbfbom", "\xef\xbf\xbe", "\xf0\x9f\xbf\xbe",
		"a\xf0\x9f\x98\x80b\xe2\x82\xacc\xc3\xa9d",
	}
	invalidTexts = []string{
		"\x80", "\xbf", "\x80\xbf\x80", "\xfe", "\xff", "\xfe\xfe\xff\xff",
		"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf",
		"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf",
		"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80",
		"\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80",
		"\xc2", "\xdf", "\xe0", "\xe0\xa0", "\xef\xbf", "\xf0", "\xf0\x90", "\xf0\x90\x80", "\xf4\x8f\xbf",
		"\xc2 ", "\xe2\x82 ", "\xf0\x9f\x98 ", "\xe2\x28\xa1", "\xf0\x28\x8c\xbc", "\xf0\x90\x28\xbc",
		"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64", "ok\xc3",
	}
)

func TestReaderUTF8(t *testing.T) {
	for _, s := range validTexts {
		checkText(t, s, text(s))
	}
	for _, s := range invalidTexts {
		checkText(t, s, failed(1007))
	}
}

func checkText(t *testing.T, s, want string) {
	t.Helper()
	check := func(frames ...[]byte) {
		t.Helper()
		readerCase{frames: frames, want: []string{want}}.check(t)
	}
	check(cf(fin|opText, s))
	for i := range len(s) + 1 {
		check(cf(opText, s[:i]), cf(fin|opCont, s[i:]))
		check(cf(opText, s[:i]), cf(opCont, ""), cf(fin|opCont, s[i:]))
	}
	octets := wireOf(cf(opText, ""))
	for i := range len(s) {
		octets = append(octets, cf(opCont, s[i:i+1]))
	}
	check(append(octets, cf(fin|opCont, ""))...)

	// Binary messages are nobody's business.
	readerCase{frames: wireOf(cf(fin|opBin, s)), want: []string{binaryMsg(s)}}.check(t)
	readerCase{frames: wireOf(cf(opBin, s), cf(fin|opCont, s)), want: []string{binaryMsg(s + s)}}.check(t)
}

// Autobahn 6.4: the error comes with the first fragment that no continuation can
// repair, not with the end of the message, and not before.
func TestReaderUTF8FailsFast(t *testing.T) {
	for _, c := range []struct {
		fragment string
		hopeless bool
	}{
		{"\xf4\x90", true}, {"\xf4\x8f", false}, {"\xed\xa0", true}, {"\xed\x9f", false},
		{"\xe0\x9f", true}, {"\xe0\xa0", false}, {"\xf0\x8f", true}, {"\xf0\x90", false},
		{"\xc0", true}, {"\xc1", true}, {"\xc2", false}, {"\xf5", true}, {"\xf4", false},
		{"ab\xe2\x82", false}, {"ab\xe2\x28", true}, {"\xf0\x9f\x98", false}, {"\xf0\x9f\x28", true},
		{"\xed\xa0\x80", true}, {"\x80", true},
	} {
		want := []string{}
		if c.hopeless {
			want = []string{failed(1007)}
		}
		readerCase{frames: wireOf(cf(opText, c.fragment)), want: want}.check(t)
		readerCase{frames: wireOf(cf(opText, "x"), cf(opCont, c.fragment)), want: want}.check(t)
	}
}

// Every text of up to three bytes out of those at the borders of the encoding,
// byte by byte in fragments, must fare as the standard library says of the
// whole.
func TestReaderUTF8Exhaustive(t *testing.T) {
	borders := []byte{
		'a', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf,
		0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
	}
	var try func(s []byte)
	try = func(s []byte) {
		f := fragments{op: OpText}
		ok := true
		for i := 0; ok && i < len(s); i++ {
			f.payload = append(f.payload, s[i])
			ok = f.checkText(i == len(s)-1)
		}
		if ok != utf8.Valid(s) {
			t.Errorf("% x: accepted %v", s, ok)
		}
		if len(s) == 4 {
			return
		}
		for _, b := range borders {
			try(append(s[:len(s):len(s)], b))
		}
	}
	try(nil)
}
