package scenario

import (
	"encoding/binary"
	"net/netip"
	"syscall"
)

// Of linux/rtnetlink.h.
const (
	routeLocal   = 2  // RTN_LOCAL
	quickAckItem = 15 // RTAX_QUICKACK
)

// quickAck tells whether who connects to an IPv4 address of this machine
// acknowledges at once what it gets: the "quickack" of the local route.
func quickAck(address string) bool {
	to, err := netip.ParseAddr(address)
	if err != nil || !to.Is4() {
		return false
	}
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_INET)
	if err != nil {
		return false
	}
	routes, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return false
	}
	longest, quick := -1, false
	for i := range routes {
		r := &routes[i]
		if r.Header.Type != syscall.RTM_NEWROUTE || len(r.Data) < syscall.SizeofRtMsg || r.Data[7] != routeLocal {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(r)
		if err != nil {
			continue
		}
		bits := int(r.Data[1]) // of the destination
		var metrics []byte
		matches := bits == 0
		for _, a := range attrs {
			switch a.Attr.Type {
			case syscall.RTA_DST:
				dst, ok := netip.AddrFromSlice(a.Value)
				matches = ok && netip.PrefixFrom(dst, bits).Contains(to)
			case syscall.RTA_METRICS:
				metrics = a.Value
			}
		}
		if matches && bits > longest {
			longest, quick = bits, metric(metrics, quickAckItem) != 0
		}
	}
	return quick
}

// metric finds one of the nested attributes of a route, 0 if it is not there.
func metric(b []byte, item uint16) uint32 {
	for len(b) >= 8 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return 0
		}
		if size == 8 && binary.NativeEndian.Uint16(b[2:]) == item {
			return binary.NativeEndian.Uint32(b[4:])
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return 0
}
