package gnetio

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/internal/comet"
)

// pages implements comet.Pages with a file in memory for each Put: sendfile(2)
// lets the send queue of a socket refer to the pages of the file. They are
// never written again, and a page lives on for those who refer to it when the
// file is closed, so a slow client gets what was meant for it, however late.
//
// One file for all, with holes punched for what is dropped, would not do: where
// the kernel keeps such files in large folios it zeroes a part of one in place
// (truncate_inode_partial_folio).
type pages struct {
	files   *atomic.Int32 // open, of all loops
	refused bool          // the system does not let sockets refer to pages
}

// maxPagesFiles bounds the descriptors that are not there for clients; package
// app leaves some hundreds for everything but clients. More rooms than that are
// seldom written large runs to at the same time; what comes when they are taken
// is copied.
const maxPagesFiles = 100

func kernelPages(files *atomic.Int32) comet.Pages { return &pages{files: files} }

// Put implements comet.Pages.
func (s *pages) Put(p []byte) (at int, ok bool) {
	if s.refused {
		return 0, false
	}
	if s.files.Add(1) > maxPagesFiles {
		s.files.Add(-1)
		return 0, false
	}
	fd, err := unix.MemfdCreate("perseid-push", unix.MFD_CLOEXEC)
	if err != nil {
		s.files.Add(-1)
		return 0, false
	}
	if n, err := unix.Write(fd, p); err != nil || n < len(p) {
		s.Drop(fd)
		return 0, false
	}
	return fd, true
}

// Write implements comet.Pages. What the socket does not take is left to gnet,
// and so are its errors.
func (s *pages) Write(to comet.Conn, p []byte, at int) {
	c := to.(*connection)
	sent := int64(0)
	for c.gc.OutboundBuffered() == 0 && sent < int64(len(p)) {
		n, err := unix.Sendfile(c.gc.Fd(), at, &sent, len(p)-int(sent))
		if err != nil {
			s.refused = s.refused || refusal(err)
			break
		}
		if n == 0 {
			break
		}
	}
	if sent < int64(len(p)) {
		c.Write(p[sent:])
	}
}

// refusal tells whether an error is about the call, not the connection.
func refusal(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)
}

// Drop implements comet.Pages.
func (s *pages) Drop(at int) {
	_ = unix.Close(at)
	s.files.Add(-1)
}
