package conntrack

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"keelson.dev/proxy-lite/rules"
)

var (
	alive = netip.MustParseAddrPort("10.244.0.2:8080")
	dead  = netip.MustParseAddrPort("10.244.1.2:8080")
	other = netip.MustParseAddrPort("10.244.1.3:8080")
)

func service(protocol rules.Protocol, endpoints ...netip.AddrPort) rules.Service {
	if endpoints == nil {
		return rules.Service{}
	}
	frontend := rules.Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: protocol}
	return rules.Service{Entries: []rules.Entry{{Frontend: frontend, Endpoints: endpoints}}}
}

func flow(protocol uint8, state uint8, reply netip.AddrPort) *netlink.ConntrackFlow {
	f := &netlink.ConntrackFlow{
		Forward: netlink.IPTuple{Protocol: protocol, SrcIP: net.ParseIP("10.244.0.9"), SrcPort: 40000, DstIP: net.ParseIP("10.96.0.9"), DstPort: 80},
		Reverse: netlink.IPTuple{Protocol: protocol, SrcIP: reply.Addr().AsSlice(), SrcPort: reply.Port()},
	}
	if protocol == unix.IPPROTO_TCP {
		f.ProtoInfo, f.TimeOut = &netlink.ProtoInfoTCP{State: state}, 5*24*60*60
	}
	return f
}

func kept(f *netlink.ConntrackFlow, long time.Duration) *netlink.ConntrackFlow {
	f.TimeOut = uint32(long.Seconds())
	return f
}

func TestMatch(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	const unanswered, established = nl.TCP_CONNTRACK_SYN_SENT, nl.TCP_CONNTRACK_ESTABLISHED
	frontend := netip.MustParseAddrPort("10.96.0.9:80")
	both, one := []netip.AddrPort{alive, dead}, []netip.AddrPort{alive}
	for name, c := range map[string]struct {
		protocol      rules.Protocol
		before, after []netip.AddrPort
		flow          *netlink.ConntrackFlow
		want          bool
	}{
		"unanswered by who is gone":          {rules.TCP, both, one, flow(tcp, unanswered, dead), true},
		"unanswered by who is there":         {rules.TCP, both, one, flow(tcp, unanswered, alive), false},
		"established with who is gone":       {rules.TCP, both, one, flow(tcp, established, dead), false},
		"unanswered, service gone":           {rules.TCP, both, nil, flow(tcp, unanswered, dead), true},
		"established, service gone":          {rules.TCP, both, nil, flow(tcp, established, dead), false},
		"busy with who is gone":              {rules.TCP, both, one, kept(flow(tcp, established, dead), unacknowledged), false},
		"unanswered by who is gone for long": {rules.TCP, both, one, kept(flow(tcp, established, dead), unacknowledged-silence-time.Second), true},
		"unanswered for long, and there":     {rules.TCP, both, one, kept(flow(tcp, established, alive), unacknowledged-silence-time.Second), false},
		"reset by who is gone":               {rules.TCP, both, one, flow(tcp, nl.TCP_CONNTRACK_CLOSE, dead), true},
		"closed with who is gone":            {rules.TCP, both, one, flow(tcp, nl.TCP_CONNTRACK_TIME_WAIT, dead), false},
		"half closed with who is gone":       {rules.TCP, both, one, flow(tcp, nl.TCP_CONNTRACK_CLOSE_WAIT, dead), false},
		"being closed for a moment":          {rules.TCP, both, one, flow(tcp, nl.TCP_CONNTRACK_FIN_WAIT, dead), false},
		"not translated":                     {rules.TCP, both, one, flow(tcp, unanswered, frontend), false},
		"another protocol":                   {rules.UDP, both, one, flow(tcp, unanswered, dead), false},
		"nothing lost":                       {rules.TCP, one, both, flow(tcp, unanswered, other), false},
		"datagrams to who is gone":           {rules.UDP, both, one, flow(udp, 0, dead), true},
		"datagrams to who is there":          {rules.UDP, both, one, flow(udp, 0, alive), false},
		"datagrams from when there was none": {rules.UDP, []netip.AddrPort{}, one, flow(udp, 0, frontend), true},
		"datagrams, service gone":            {rules.UDP, both, nil, flow(udp, 0, dead), true},
	} {
		t.Run(name, func(t *testing.T) {
			flows := Flows{Patience: time.Second}
			flows.Changed(service(c.protocol, c.before...), service(c.protocol, c.after...))
			flows.begin(time.Unix(0, 0))
			if got := flows.MatchConntrackFlow(c.flow); got != c.want {
				t.Errorf("stale: %t, want %t", got, c.want)
			}
		})
	}
}

// TestClosing is about how long a connection is being closed without an answer.
func TestClosing(t *testing.T) {
	unanswered := func(state uint8) *netlink.ConntrackFlow { return flow(unix.IPPROTO_TCP, state, dead) }
	for name, c := range map[string]struct {
		looks []*netlink.ConntrackFlow // one each half of Patience
		want  bool
	}{
		"closed by the client":            {[]*netlink.ConntrackFlow{unanswered(nl.TCP_CONNTRACK_FIN_WAIT), unanswered(nl.TCP_CONNTRACK_FIN_WAIT), unanswered(nl.TCP_CONNTRACK_FIN_WAIT)}, true},
		"closed by both":                  {[]*netlink.ConntrackFlow{unanswered(nl.TCP_CONNTRACK_FIN_WAIT), unanswered(nl.TCP_CONNTRACK_LAST_ACK), unanswered(nl.TCP_CONNTRACK_LAST_ACK)}, true},
		"too early":                       {[]*netlink.ConntrackFlow{unanswered(nl.TCP_CONNTRACK_FIN_WAIT), unanswered(nl.TCP_CONNTRACK_FIN_WAIT)}, false},
		"acknowledged, and used further":  {[]*netlink.ConntrackFlow{unanswered(nl.TCP_CONNTRACK_FIN_WAIT), unanswered(nl.TCP_CONNTRACK_CLOSE_WAIT), unanswered(nl.TCP_CONNTRACK_LAST_ACK)}, false},
		"established until just a moment": {[]*netlink.ConntrackFlow{unanswered(nl.TCP_CONNTRACK_ESTABLISHED), unanswered(nl.TCP_CONNTRACK_ESTABLISHED), unanswered(nl.TCP_CONNTRACK_FIN_WAIT)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			flows := Flows{Patience: 2 * time.Second}
			flows.Changed(service(rules.TCP, alive, dead), service(rules.TCP, alive))
			stale := false
			for i, look := range c.looks {
				flows.begin(time.Unix(int64(i), 0))
				stale = flows.MatchConntrackFlow(look)
				flows.end()
			}
			if stale != c.want {
				t.Errorf("stale: %t", stale)
			}
			flows.Changed(service(rules.TCP, alive), service(rules.TCP, alive, dead))
			if len(flows.lost) > 0 {
				t.Error("an endpoint that is back is still taken for lost")
			}
		})
	}
}
