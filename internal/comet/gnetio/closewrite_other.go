//go:build !unix

package gnetio

// closeWrite does nothing where gnet has no sockets of the system: the peer
// sees the end when the connection is closed.
func closeWrite(int) {}
