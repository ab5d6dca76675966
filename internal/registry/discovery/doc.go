// Package discovery is the node directory in a bilibili/discovery cluster, over
// its HTTP API. It has its own small client, because the official one brings
// half of kratos v1 with it (global flags, goroutines on import), hangs while
// the servers are down, and never notices that the last instance left.
//
// # Guarantees
//
// Those of package registry, and, each of them a trap of the server or of its
// other clients:
//
//   - A change is seen at once, and at the latest after the poll timeout (5 s).
//     The server loses wake-ups: polls of the same host name share a channel, a
//     poll given up goes on eating events, a change between two polls may not
//     move the timestamp, and nobody is woken when the last instance leaves.
//     So every poll has a host name of its own and a short server-side timeout,
//     and after an empty one the whole list is fetched.
//   - Timestamps of two servers are not compared, nor those before and after a
//     failure.
//   - A server that restarts has forgotten all registrations. A renewal that is
//     answered with "not found" registers again, and every registration is
//     renewed at once when servers are back. Until the renew interval is over, a
//     watcher keeps the instances it knew from before the outage and has not
//     seen since: they are most likely alive.
//   - A server in protect mode, or with any other failure, is one that does not
//     answer: the next one is asked. With none left, GetService returns an
//     error, Register and the watchers go on in the background with back-off and
//     jitter, and the log says so.
//   - Deregister ends the renewals, waits for one under way, and only then
//     cancels: nothing registers again behind its back.
//   - The host name of a registration is the ID of the instance, so many
//     instances can live on one host. Registering the same ID again changes its
//     metadata and endpoints. (The server's /discovery/set is not used: it
//     writes into a map that other requests are reading, which can kill the
//     server, and cannot remove a key.)
//   - Of several instances with the same gRPC address the newest is taken. A
//     crashed node stays listed for 90 s to 1 h (see Non-goals); the one that
//     replaced it under another ID would be served twice.
//
// # Concurrency
//
// All methods may be called from any goroutine. One goroutine per registration
// lives from Register to Deregister or Close. A watcher has no goroutine: it
// works in Next, which one goroutine at a time may call.
//
// # Non-goals
//
// Liveness. The server evicts a dead instance after 90 to 150 s at best, and in
// a small cluster its self-protection keeps it for up to an hour. Whether a node
// lives is decided by the state of its gRPC connection and by its lease.
//
// The servers are those of the configuration; the cluster's own list of its
// members is not followed. There is no authentication and no TLS in the API.
package discovery
