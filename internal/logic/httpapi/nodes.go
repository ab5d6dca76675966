package httpapi

import (
	"net/http"
	"net/netip"
	"strings"
)

func (s *Server) nodesWeighted(w http.ResponseWriter, r *http.Request) {
	writeOK(w, s.core.NodesWeighted(newQuery(r.URL).values.Get("platform"), s.clientIP(r)))
}

func (s *Server) nodesInstances(w http.ResponseWriter, _ *http.Request) {
	writeOK(w, s.core.NodesInstances()) // null when there is none, as in goim
}

// clientIP is the address of the caller: the last one in the chain of proxies
// that a trusted proxy did not add itself. Invalid = not known.
func (s *Server) clientIP(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip := peer.Addr().Unmap()
	if !s.trusts(ip) {
		return ip
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if ip = hop.Unmap(); !s.trusts(ip) {
			return ip
		}
	}
	if real, err := netip.ParseAddr(strings.TrimSpace(r.Header.Get("X-Real-IP"))); err == nil && r.Header.Get("X-Forwarded-For") == "" {
		return real.Unmap()
	}
	return ip
}

func (s *Server) trusts(ip netip.Addr) bool {
	for _, prefix := range s.trusted {
		if prefix.Contains(ip.WithZone("")) {
			return true
		}
	}
	return false
}
