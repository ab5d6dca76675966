package logic

import (
	"net/netip"
	"slices"
)

// regionTable finds the region of a client by the longest network that holds
// its address: one map look-up for each prefix length in use.
type regionTable struct {
	networks map[netip.Prefix]string
	bits4    []int // prefix lengths of IPv4, longest first
	bits6    []int
}

// newRegionTable needs a configuration without Problems.
func newRegionTable(regions map[string][]string) regionTable {
	t := regionTable{networks: make(map[netip.Prefix]string)}
	for name, cidrs := range regions {
		for _, cidr := range cidrs {
			prefix, err := netip.ParsePrefix(cidr)
			if err != nil {
				continue
			}
			t.networks[prefix.Masked()] = name
			if prefix.Addr().Is4() {
				t.bits4 = append(t.bits4, prefix.Bits())
			} else {
				t.bits6 = append(t.bits6, prefix.Bits())
			}
		}
	}
	t.bits4, t.bits6 = longestFirst(t.bits4), longestFirst(t.bits6)
	return t
}

func longestFirst(bits []int) []int {
	slices.Sort(bits)
	bits = slices.Compact(bits)
	slices.Reverse(bits)
	return bits
}

// of finds the region of an address.
func (t regionTable) of(ip netip.Addr) (region string, known bool) {
	ip = ip.Unmap().WithZone("")
	bits := t.bits6
	if ip.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		prefix, err := ip.Prefix(n)
		if err != nil {
			continue
		}
		if region, known := t.networks[prefix]; known {
			return region, true
		}
	}
	return "", false
}
