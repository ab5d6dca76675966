// Package ws speaks the server side of RFC 6455 on byte buffers: it parses the
// opening handshake and the client's frames out of bytes that somebody else
// read, and appends answers to bytes that somebody else writes. It knows no
// connection, starts no goroutine and takes no lock, which makes it fit for an
// event loop that lends its read buffer for the length of one callback. The
// little a client needs for tests and tools (masked frames, a Reader of
// unmasked ones) is here too.
//
// A session embeds a [Reader] by value and loops:
//
//	for {
//		ev, n, err := r.Next(buf)
//		if err != nil { /* answer with AppendClose(dst, pe.Code, pe.Reason), close */ }
//		if n == 0 { break } // the rest stays where it was read
//		/* handle ev */
//		buf = buf[n:]
//	}
//
// With permessage-deflate (RFC 7692; [AcceptDeflate], [AppendUpgradeWith],
// [Reader.AllowDeflate]) both sides compress every message alone: the answer
// always says server_no_context_takeover and client_no_context_takeover. A
// [Deflater] makes a frame that any number of connections can share, and an
// [Inflater] serves any number of them, so no connection holds anything for it.
//
// # Ownership
//
// The buffer given to [Reader.Next] must be writable: a frame is unmasked in
// place, and only once all of it is there. So n bytes that were consumed must
// not be offered again, and bytes that were not consumed are untouched and may
// be offered again at another address. [Event.Payload] aliases that buffer or
// the assembled fragments; it is valid until the next call of Next and until
// the buffer is given back, whichever is first. Its capacity ends with the
// frame, so appending to it never writes into the frame behind. [Handshake]
// and Event.Reason are copies and may be kept. The Append functions follow the
// rules of append.
//
// # Concurrency
//
// A Reader belongs to one goroutine (one loop) at a time. Everything else is a
// pure function.
//
// # Guarantees
//
//   - How the bytes were cut on the way does not change what comes out: the same
//     events, and the same error at the same place.
//   - Nothing is read or written outside the frame that is being consumed.
//   - Lengths are judged from the frame header, before the payload is awaited or
//     a byte of memory is spent on it. An idle Reader holds no buffer; memory for
//     a fragmented message grows with the bytes that arrived, is bounded by the
//     message limit, and is dropped when the message is delivered.
//   - A message costs no allocation unless it is fragmented.
//   - Of a compressed message no more is inflated than the message limit, and
//     memory for it grows with what came out.
//   - Every refusal is typed: [HandshakeError] with an HTTP status,
//     [ProtocolError] with a close code. Reasons are fixed texts and never repeat
//     what the peer sent.
//
// # Differences from goim
//
// The handshake answer is goim's: 101 with Upgrade, Connection and
// Sec-WebSocket-Accept; no subprotocol, any Origin, and no extension unless the
// caller wants permessage-deflate. Clients may
// send binary or text messages, in fragments or not. Where goim contradicts the
// RFC, the RFC wins:
//
//   - goim takes unmasked client frames; here they are error 1002.
//   - goim closes the socket on a bad upgrade without a word; here the peer gets
//     an HTTP status ([AppendHandshakeError]).
//   - goim neither answers nor sends Close; here Close is an event with its code,
//     and every error carries the code to send.
//   - goim ignores UTF-8, non-minimal lengths and close codes; here they are
//     checked.
//   - goim stops at about 101 fragments; here at [MaxFragments], of which
//     [MaxEmptyFragments] may be empty.
//   - goim needs neither a Host header nor a well-formed key; here both are
//     required.
//
// # Non-goals
//
// Other extensions, compression with a context that is kept from message to
// message, subprotocols, TLS, dialing, and the policy of closing: who sends
// Close first, how long to wait for the other one, and how many pings are too
// many is the session's business.
package ws
