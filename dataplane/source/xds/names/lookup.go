package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// family is what was found of one address family.
type family struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
	// none is set when a server has answered that there is nothing, for ttl.
	none bool
}

// noRecord is how long an answer without a record is kept when the server says
// nothing of it (RFC 2308).
const noRecord = 30 * time.Second

// lookup asks for both families at once. keep is the shorter of their TTLs.
func (r *Resolver) lookup(ctx context.Context, name string) (found [2]family, keep time.Duration, err error) {
	var wg sync.WaitGroup
	for i, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		wg.Go(func() { found[i] = r.question(ctx, name, kind) })
	}
	wg.Wait()
	if found[0].err != nil && text(found[0].err) == text(found[1].err) {
		return found, 0, found[0].err
	}
	return found, min(found[0].ttl, found[1].ttl), errors.Join(found[0].err, found[1].err)
}

// question asks one server after the other until one answers.
func (r *Resolver) question(ctx context.Context, name string, kind uint16) family {
	if len(r.config.Servers) == 0 {
		return family{err: errors.New("no name server is configured")}
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return family{err: errors.New("it is not a domain name")}
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	q.SetEdns0(1232, false)
	var f family
	for _, server := range r.config.Servers {
		reply, err := r.exchange(ctx, q, server)
		if err != nil {
			f.err = fmt.Errorf("name server %s: %w", server, err)
			continue
		}
		switch reply.Rcode {
		case dns.RcodeSuccess:
			return records(reply, kind)
		case dns.RcodeNameError:
			return family{err: errors.New("there is no such name"), none: true, ttl: negative(reply)}
		}
		f.err = fmt.Errorf("name server %s answers %s", server, dns.RcodeToString[reply.Rcode])
	}
	return f
}

// exchange asks by UDP, and by TCP what does not fit.
func (r *Resolver) exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	reply, _, err := (&dns.Client{Timeout: r.config.Timeout, UDPSize: 1232}).ExchangeContext(ctx, q, server)
	if err != nil || !reply.Truncated {
		return reply, err
	}
	reply, _, err = (&dns.Client{Net: "tcp", Timeout: r.config.Timeout}).ExchangeContext(ctx, q, server)
	return reply, err
}

// records collects the addresses of the name that was asked for, through its
// aliases (CNAME).
func records(reply *dns.Msg, kind uint16) family {
	var f family
	owner := dns.CanonicalName(reply.Question[0].Name)
	owners, ttl := map[string]bool{owner: true}, uint32(1<<31)
	for range reply.Answer { // aliases may come in any order
		for _, rr := range reply.Answer {
			if alias, is := rr.(*dns.CNAME); is && owners[dns.CanonicalName(alias.Hdr.Name)] {
				owners[dns.CanonicalName(alias.Target)] = true
				ttl = min(ttl, alias.Hdr.Ttl)
			}
		}
	}
	for _, rr := range reply.Answer {
		if rr.Header().Rrtype != kind || !owners[dns.CanonicalName(rr.Header().Name)] {
			continue
		}
		if addr, ok := addressOf(rr); ok {
			f.addrs = append(f.addrs, addr)
			ttl = min(ttl, rr.Header().Ttl)
		}
	}
	f.ttl = time.Duration(ttl) * time.Second
	if len(f.addrs) == 0 {
		f.ttl, f.none = negative(reply), true
	}
	slices.SortFunc(f.addrs, netip.Addr.Compare) // servers turn them round
	f.addrs = slices.Compact(f.addrs)
	return f
}

func addressOf(rr dns.RR) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		return netip.AddrFromSlice(rr.A.To4())
	case *dns.AAAA:
		addr, ok := netip.AddrFromSlice(rr.AAAA.To16())
		return addr.Unmap(), ok
	}
	return netip.Addr{}, false
}

// negative is how long it holds that there is no record.
func negative(reply *dns.Msg) time.Duration {
	for _, rr := range reply.Ns {
		if soa, is := rr.(*dns.SOA); is {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return noRecord
}
