// Package load is the client side of the benchmarks: very many connections
// that speak goim's protocol (version 1, TCP or WebSocket), publishers that
// push over HTTP, and the bare write loop that is the ceiling of any server.
//
// # Measuring
//
// The body of a push is a [Stamp]: when it was due, which publisher sent it,
// and its number among what that publisher sent to that addressee. A
// connection keeps the next number it expects per publisher, so loss,
// duplicates and inversions are found per connection and exactly; a publisher
// sends one message after the other, so the order it asks for is defined.
// Latency counts from the time a message was due by the schedule, not from the
// time it was sent: a server that slows its publishers down does not look
// better for it.
//
// Reading costs as much as writing. Where the server is what is measured, only
// a sample of the connections, spread evenly over all of them, is read at once
// and timed; the others are drained a few times a second and checked.
//
// # Ownership
//
// A connection belongs to one loop, and a loop is one goroutine bound to one
// thread with its own epoll; nothing else touches the state of its
// connections. [Fleet] talks to loops by commands. A [Swarm] is fleets in
// several processes behind one face.
//
// # Non-goals
//
// Version 2 of the protocol: pkg/client speaks it.
package load
