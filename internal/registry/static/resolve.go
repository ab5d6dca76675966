package static

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// lookupTimeout bounds one question to DNS.
const lookupTimeout = 5 * time.Second

func parse(address string) (entry, error) {
	name, port, err := directory.SplitAddress(address)
	if err != nil {
		return entry{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return entry{}, fmt.Errorf("port of %q: %w", address, err)
	}
	e := entry{port: uint16(n)}
	if ip, err := netip.ParseAddr(name); err == nil {
		e.ip = ip.Unmap()
	} else {
		e.name = name
	}
	return e, nil
}

// resolveUntilClosed asks for all host names every interval, and at once when
// Set was called.
func (d *Directory) resolveUntilClosed() {
	defer close(d.done)
	timer := time.NewTimer(d.interval)
	defer timer.Stop()
	for {
		d.resolveAll()
		timer.Reset(d.interval)
		select {
		case <-timer.C:
		case <-d.wakeUp:
		case <-d.life.Done():
			return
		}
	}
}

// resolveAll asks for all names side by side and applies the answers together.
func (d *Directory) resolveAll() {
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	answers := make(map[string]*answer)
	d.mu.Lock()
	for name := range d.hosts {
		answers[name] = new(answer)
	}
	d.mu.Unlock()
	if len(answers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(d.life, lookupTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for name, a := range answers {
		wg.Go(func() { a.addrs, a.err = d.lookup(ctx, name) })
	}
	wg.Wait()
	if d.life.Err() != nil {
		return
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	for name, a := range answers {
		if h := d.hosts[name]; h != nil { // else Set removed it meanwhile
			d.apply(name, h, a.addrs, a.err)
		}
	}
	d.refresh()
}

// apply takes over one answer and logs when it differs in kind from the one
// before. Must be called with mu held.
func (d *Directory) apply(name string, h *host, addrs []netip.Addr, err error) {
	switch {
	case err != nil && (!h.tried || h.err == nil):
		d.log.Warn("host name cannot be resolved, keeping what is known", "host", name, "addresses", len(h.addrs), "error", err)
	case err == nil && len(addrs) == 0 && (!h.known || len(h.addrs) > 0):
		d.log.Warn("host name has no addresses", "host", name)
	case err == nil && len(addrs) > 0 && h.tried && (h.err != nil || len(h.addrs) == 0):
		d.log.Info("host name is resolved again", "host", name, "addresses", len(addrs))
	}
	h.tried, h.err = true, err
	if err == nil {
		h.known, h.addrs = true, addrs
	}
}

// lookup returns the sorted addresses of a name, of one family. No such name
// and no address are the same: an empty answer.
func (d *Directory) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", name)
	if dnsError := (*net.DNSError)(nil); errors.As(err, &dnsError) && dnsError.IsNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	addrs = slices.Clone(addrs)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if slices.ContainsFunc(addrs, netip.Addr.Is4) {
		addrs = slices.DeleteFunc(addrs, netip.Addr.Is6)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}
