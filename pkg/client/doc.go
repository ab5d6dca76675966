// Package client is the Go SDK of Perseid: it keeps a connection to a comet
// over TCP or WebSocket, in version 1 (goim) or version 2 of the protocol, and
// hands out the pushes that arrive.
//
// [Dial] makes one connection, which ends for good when anything breaks. [Run]
// keeps one alive: it reconnects with backoff until the server says "stay
// away" or the context ends.
//
//	err := client.Run(ctx, client.Config{
//		Address: "tcp://127.0.0.1:3101",
//		Auth:    client.Auth{Mid: 42, Accepts: []wire.Op{1000}},
//	}, client.Handler{
//		Connected: func(ctx context.Context, c *client.Conn) error {
//			_, err := c.Join(ctx, "live://1000")
//			return err
//		},
//		Message: func(m client.Message) { fmt.Printf("%d %s\n", m.Op, m.Body) },
//	})
//
// A [Client] does the same and lets others publish: Client.Publish goes on until
// the server has accepted the message, over as many connections as that takes,
// and the server makes one message of the attempts.
//
// Stored messages (version 2) come out of Run once and in the order of their
// timeline. A [CursorStore] keeps how far they were handled; what was missed is
// fetched, after a pause of the network or of the program.
//
// # Ownership
//
// A [Conn] owns its socket and two goroutines (reader, heartbeats); Close ends
// and joins them. A [Message] belongs to whoever received it. The slices of a
// [Config] are only read.
//
// # Concurrency
//
// All methods of a Conn may be called from any goroutine. The callbacks of a
// [Handler] are called one at a time, from the goroutine of Run.
//
// # Guarantees
//
//   - From Run, each stored message comes out once, in the order of its
//     timeline; what is lost for good is told to Handler.Skipped. The cursor is
//     saved after Handler.Message has returned: who dies in between gets that
//     message again.
//   - Messages come out in the order in which they arrived, and everything that
//     arrived before the connection ended comes out before its error.
//   - Memory is bounded: a receiver that is slow stops the reading, and so the
//     server (see Config.QueueBytes), and a length is believed only as far as
//     the bytes have arrived.
//   - No byte of the server makes the client panic, or read past a packet.
//   - A server that is silent for two heartbeats is given up.
//   - Errors never repeat the token.
//
// # Non-goals
//
// Logging: everything worth knowing is returned, or told to the Handler.
package client
