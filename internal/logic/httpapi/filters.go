package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"
)

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int // 0 = nothing yet
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

const (
	headerRequestID   = "X-Request-Id"
	maxRequestIDBytes = 64
)

// identify names each request: by what the caller calls it, or at random.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(headerRequestID)
		if !usableID(id) {
			var random [8]byte
			_, _ = rand.Read(random[:]) // never fails
			id = hex.EncodeToString(random[:])
		}
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r)
	})
}

func usableID(id string) bool {
	if id == "" || len(id) > maxRequestIDBytes {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" &&
		!strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' })
}

// maxDrained is what is read of a request that was answered before its end, as
// much as net/http reads where the connection stays.
const maxDrained = 256 << 10

// drain reads what a caller still sends who wants the connection closed behind
// this request. net/http would close at once: a caller that is still writing is
// reset, and does not see the answer that says what was wrong. One that waits
// for "100 Continue" sends nothing until something reads its body; it needs the
// answer at once.
func (s *Server) drain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &readBegun{ReadCloser: r.Body, begun: r.Header.Get("Expect") == ""}
		r.Body = body
		next.ServeHTTP(w, r)
		if r.Close && body.begun {
			// Beyond the limit it has net/http wait a little before it closes.
			_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxDrained))
		}
	})
}

// readBegun remembers that a body was read from, so that its sender sends it.
type readBegun struct {
	io.ReadCloser
	begun bool
}

func (b *readBegun) Read(p []byte) (int, error) {
	b.begun = true
	return b.ReadCloser.Read(p)
}

// measure stands outside of recoverPanic, so that panics are counted.
func (s *Server) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() { s.metrics.request(r.URL.Path, rec.status, start) }()
		next.ServeHTTP(rec, r)
	})
}

// recoverPanic answers as goim does: 500 and nothing else.
func (s *Server) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p) // net/http's own way to cut a connection
			}
			s.logger.Error("panic in a request", "path", r.URL.Path, "request", w.Header().Get(headerRequestID),
				"panic", p, "stack", string(debug.Stack()))
			if rec, ok := w.(*recorder); !ok || rec.status == 0 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// exactPath answers 404 to //goim/push/keys and the like, as goim does; the
// router would redirect to the clean path.
func (s *Server) exactPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clean := path.Clean(r.URL.Path)
		if clean != "/" && strings.HasSuffix(r.URL.Path, "/") {
			clean += "/"
		}
		if clean != r.URL.Path {
			s.notFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limited bounds the pushes under way, and so the memory of their bodies.
func (s *Server) limited(handle http.HandlerFunc, busy http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.pushes.Add(-1)
		if s.pushes.Add(1) > int64(s.cfg.MaxPushes) {
			w.Header().Set("Retry-After", "1")
			busy(w, r)
			return
		}
		handle(w, r)
	}
}

// notFound is goim's answer to what it does not know, except under /v1.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		writeProblem(w, http.StatusNotFound, NotFound, "no such path: api/push/openapi.yaml lists those that exist")
		return
	}
	// goim's router sends a path with a slash too much to the one without.
	if trimmed, ok := strings.CutSuffix(r.URL.Path, "/"); ok {
		if method, known := methodsOf(trimmed); known && method == r.Method {
			to := *r.URL
			to.Path, to.RawPath = trimmed, ""
			status := http.StatusTemporaryRedirect
			if method == http.MethodGet {
				status = http.StatusMovedPermanently
			}
			http.Redirect(w, r, to.RequestURI(), status)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write([]byte("404 page not found"))
}

// methodNotAllowed is 404 on goim's routes, as in goim.
func (s *Server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	methods, ok := methodsOf(r.URL.Path)
	if !ok || !strings.HasPrefix(r.URL.Path, "/v1/") {
		s.notFound(w, r)
		return
	}
	w.Header().Set("Allow", methods)
	writeProblem(w, http.StatusMethodNotAllowed, MethodNotAllowed, "method "+r.Method+": "+methods+" only")
}
