// Package clienttest is a loopback server that speaks the client protocol, for
// tests of programs that use package client, as httptest is for HTTP. [Comet]
// behaves like a node with the sessions it has; [Serve] gives each connection
// to a script of the test, which may break every rule.
//
// # Ownership
//
// A server owns its listeners, its connections and their goroutines; Close
// ends them all.
//
// # Concurrency
//
// Methods may be called from any goroutine, except for [Peer.Next], which
// belongs to one.
//
// # Non-goals
//
// Limits, heartbeat deadlines, backpressure: a real comet has them.
package clienttest
