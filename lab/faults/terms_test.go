package faults

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/ptr"
)

// components are the users that work by turns, and the Lease in kube-system by which each does.
var components = map[string]string{
	"system:kube-controller-manager": "kube-controller-manager",
	"system:kube-scheduler":          "kube-scheduler",
}

// hold is a write of a Lease. It took effect at some moment from earliest to latest.
type hold struct {
	version          uint64
	holder           string // empty: it was given back
	earliest, latest time.Time
}

// deed is a write of a component.
type deed struct {
	by, what            string
	received, completed time.Time
}

// records are what audit logs say of one component.
type records struct {
	holds []hold
	deeds []deed
}

// read adds what an audit log says to the records of each Lease: only writes that succeeded. Who wrote is known by the address that the
// request came from. It returns how many lines are none: a server that is killed may leave half of one.
func read(log io.Reader, nodes map[string]string, leases map[string]*records) (broken int, err error) {
	reader := bufio.NewReader(log)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return broken, nil
		}
		if err != nil {
			return broken, err
		}
		var event auditv1.Event
		if json.Unmarshal(line, &event) != nil {
			broken++
			continue
		}
		name := components[event.User.Username]
		if name == "" || event.ObjectRef == nil || event.ResponseStatus == nil || event.ResponseStatus.Code/100 != 2 || len(event.SourceIPs) == 0 {
			continue
		}
		r := leases[name]
		if r == nil {
			r = &records{}
			leases[name] = r
		}
		node, known := nodes[event.SourceIPs[len(event.SourceIPs)-1]]
		if !known {
			return broken, fmt.Errorf("%s wrote from %v, which is no server", event.User.Username, event.SourceIPs)
		}
		received, completed := event.RequestReceivedTimestamp.Time, event.StageTimestamp.Time
		if ref := event.ObjectRef; ref.Resource == "leases" && ref.Namespace == "kube-system" && event.ResponseObject != nil {
			var lease coordinationv1.Lease
			if err := json.Unmarshal(event.ResponseObject.Raw, &lease); err != nil {
				return broken, fmt.Errorf("decode lease: %w", err)
			}
			h, err := holdOf(&lease, received, completed)
			if err != nil {
				return broken, err
			}
			r.holds = append(r.holds, h)
			continue
		}
		r.deeds = append(r.deeds, deed{node, event.Verb + " " + event.RequestURI, received, completed})
	}
}

// holdOf is what a Lease says that was written from earliest to latest.
func holdOf(lease *coordinationv1.Lease, earliest, latest time.Time) (hold, error) {
	version, err := strconv.ParseUint(lease.ResourceVersion, 10, 64)
	if err != nil {
		return hold{}, fmt.Errorf("lease %s: %w", lease.Name, err)
	}
	return hold{version, ptr.Deref(lease.Spec.HolderIdentity, ""), earliest, latest}, nil
}

// terms puts what is known of a Lease in order. A write that took effect before another did so before that one's latest moment, and after
// the earliest of those before it: so a write of which only a watch told, and not the log of a server that was killed, has its time too.
func terms(logged, watched []hold) []hold {
	byVersion := map[uint64]hold{}
	for _, h := range slices.Concat(watched, logged) { // logs know more
		if old, known := byVersion[h.version]; known && old.latest.Before(h.latest) {
			h.latest = old.latest
		}
		byVersion[h.version] = h
	}
	ordered := slices.SortedFunc(maps.Values(byVersion), func(a, b hold) int { return cmp.Compare(a.version, b.version) })
	for i := 1; i < len(ordered); i++ {
		if before := ordered[i-1].earliest; ordered[i].earliest.Before(before) {
			ordered[i].earliest = before
		}
	}
	for i := len(ordered) - 1; i > 0; i-- {
		if after := ordered[i].latest; after.Before(ordered[i-1].latest) {
			ordered[i-1].latest = after
		}
	}
	return ordered
}

// verdict is what a Lease's terms say of its component's writes.
type verdict struct {
	usurped   []string // writes that began without the lease
	underWay  int      // writes that began with it and were under way when another got it: nobody could have stopped them
	tooEarly  int      // writes before the first known holder
	judged    map[string]int
	handovers int
}

// judge holds each write against the Lease: who wrote must have held it at some moment that may have been that of the write's beginning.
func judge(terms []hold, deeds []deed) verdict {
	v := verdict{judged: map[string]int{}}
	last := ""
	for _, h := range terms {
		if last != "" && h.holder != "" && h.holder != last {
			v.handovers++
		}
		last = cmp.Or(h.holder, last)
	}
	for _, d := range deeds {
		// The first that may have taken effect after the write began: the one before it had by then.
		next, _ := slices.BinarySearchFunc(terms, d.received, func(h hold, at time.Time) int { return h.latest.Compare(at) })
		if next == 0 {
			v.tooEarly++
			continue
		}
		may, others := sets.New(terms[next-1].holder), false
		for _, h := range terms[next:] {
			if !h.earliest.After(d.received) {
				may.Insert(h.holder)
			}
			if h.latest.Before(d.completed) && h.holder != "" && h.holder != d.by {
				others = true
			}
		}
		v.judged[d.by]++
		if !may.Has(d.by) {
			v.usurped = append(v.usurped, fmt.Sprintf("%s: %s at %s (until %s), while the lease was that of %q since %s at the latest",
				d.by, d.what, d.received.Format(clockLayout), d.completed.Format(clockLayout), terms[next-1].holder, since(terms[:next]).Format(clockLayout)))
		} else if others {
			v.underWay++
		}
	}
	return v
}

// since is when the last holder's term began, at the latest.
func since(terms []hold) time.Time {
	last := terms[len(terms)-1]
	for _, h := range slices.Backward(terms) {
		if h.holder != last.holder {
			break
		}
		last = h
	}
	return last.latest
}

func TestJudge(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	wrote := func(version uint64, holder string, from, to int) hold { return hold{version, holder, at(from), at(to)} }
	saw := func(version uint64, holder string, when int) hold {
		return hold{version: version, holder: holder, latest: at(when)}
	}
	did := func(by string, from, to int) []deed { return []deed{{by, "create pod", at(from), at(to)}} }
	handedOver := []hold{wrote(10, "a", 0, 1), wrote(12, "a", 10, 11), wrote(20, "b", 30, 32), wrote(22, "b", 40, 41)}
	for name, test := range map[string]struct {
		logged, watched []hold
		deeds           []deed
		usurped         int
		underWay        int
		tooEarly        int
	}{
		"Held":                {logged: handedOver, deeds: did("a", 5, 6)},
		"HeldByNextOne":       {logged: handedOver, deeds: did("b", 35, 36)},
		"Lapsed":              {logged: handedOver, deeds: did("a", 29, 29)}, // and nobody else had it yet
		"WhileAnotherGetsIt":  {logged: handedOver, deeds: did("a", 31, 31)},
		"WhileItGetsIt":       {logged: handedOver, deeds: did("b", 31, 31)},
		"AfterAnotherGotIt":   {logged: handedOver, deeds: did("a", 33, 33), usurped: 1},
		"LongAfter":           {logged: handedOver, deeds: did("a", 99, 99), usurped: 1},
		"BeforeItGotIt":       {logged: handedOver, deeds: did("b", 29, 31), usurped: 1},
		"UnderWay":            {logged: handedOver, deeds: did("a", 29, 50), underWay: 1},
		"NeverHeld":           {logged: handedOver, deeds: did("c", 20, 21), usurped: 1},
		"BeforeAnythingKnown": {logged: handedOver, deeds: did("c", 0, 21), tooEarly: 1},
		"GotItBack": {
			logged: append(handedOver, wrote(30, "a", 60, 61)), deeds: did("a", 61, 62),
		},
		"BetweenItsTerms": {
			logged: append(handedOver, wrote(30, "a", 60, 61)), deeds: did("a", 45, 70), usurped: 1,
		},
		"GivenBack": {
			logged: append(handedOver, wrote(30, "", 60, 61)), deeds: did("b", 62, 63), usurped: 1,
		},
		"LogLostTheNextOne": { // nothing shows that a had lost it
			logged: handedOver[:2], deeds: did("a", 33, 33),
		},
		"WatchKnowsTheNextOne": {
			logged: handedOver[:2], watched: []hold{saw(20, "b", 35)}, deeds: did("a", 36, 36), usurped: 1,
		},
		"WatchIsLate": {
			logged: handedOver[:2], watched: []hold{saw(20, "b", 99)}, deeds: did("a", 36, 36),
		},
		"LateWatchOfAnEarlyWrite": { // b wrote again at 41, so it had got the lease before
			logged: []hold{handedOver[0], handedOver[3]}, watched: []hold{saw(20, "b", 99)}, deeds: did("a", 42, 42), usurped: 1,
		},
		"LogLostItsReturn": {
			logged: handedOver, watched: []hold{saw(30, "a", 70)}, deeds: did("a", 61, 62),
		},
		"WatchIsSoonerThanTheAnswer": {
			logged: handedOver, watched: []hold{saw(20, "b", 31)}, deeds: append(did("a", 31, 32), did("b", 31, 32)...), underWay: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(terms(test.logged, test.watched), test.deeds)
			if len(v.usurped) != test.usurped || v.underWay != test.underWay || v.tooEarly != test.tooEarly {
				t.Errorf("usurped %q, %d under way, %d too early, want %d, %d, %d", v.usurped, v.underWay, v.tooEarly, test.usurped, test.underWay, test.tooEarly)
			}
		})
	}
	if n := judge(terms(append(handedOver, wrote(30, "", 60, 61), wrote(31, "b", 62, 62), wrote(32, "a", 63, 64)), nil), nil).handovers; n != 2 {
		t.Errorf("%d handovers, want 2", n)
	}
}

func TestRead(t *testing.T) {
	event := func(user, verb, resource, ip string, code int, more string) string {
		return fmt.Sprintf(`{"kind":"Event","verb":%q,"requestURI":"/x","user":{"username":%q},"sourceIPs":[%q],"responseStatus":{"code":%d},`+
			`"objectRef":{"resource":%q,"namespace":"kube-system"},"requestReceivedTimestamp":"2026-01-01T00:00:01.000000Z","stageTimestamp":"2026-01-01T00:00:02.000000Z"%s}`,
			verb, user, ip, code, resource, more) + "\n"
	}
	const lease = `,"responseObject":{"kind":"Lease","metadata":{"resourceVersion":"7"},"spec":{"holderIdentity":"server-1"}}`
	log := event("system:kube-scheduler", "update", "leases", "1.1.1.1", 200, lease) +
		event("system:kube-scheduler", "update", "leases", "1.1.1.1", 409, "") +
		`{"kind":"Event","verb":"cre` + "\n" + // killed
		event("system:kube-scheduler", "create", "pods", "1.1.1.2", 201, "") +
		event("system:kube-scheduler", "create", "pods", "1.1.1.2", 504, "") +
		event("system:kube-controller-manager", "delete", "pods", "1.1.1.1", 200, "") +
		event("somebody", "delete", "pods", "9.9.9.9", 200, "") +
		`{"kind":"Event"`
	nodes := map[string]string{"1.1.1.1": "server-1", "1.1.1.2": "server-2"}
	leases := map[string]*records{}
	broken, err := read(strings.NewReader(log), nodes, leases)
	if err != nil || broken != 1 || len(leases) != 2 {
		t.Fatalf("%d broken lines, leases %v, error %v, want 1, 2 and none", broken, leases, err)
	}
	from, to := time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)
	s, c := leases["kube-scheduler"], leases["kube-controller-manager"]
	if len(s.holds) != 1 || s.holds[0].version != 7 || s.holds[0].holder != "server-1" || !s.holds[0].earliest.Equal(from) || !s.holds[0].latest.Equal(to) {
		t.Errorf("holds %v", s.holds)
	}
	if len(s.deeds) != 1 || s.deeds[0].by != "server-2" || s.deeds[0].what != "create /x" || !s.deeds[0].received.Equal(from) || !s.deeds[0].completed.Equal(to) {
		t.Errorf("deeds %v", s.deeds)
	}
	if len(c.holds) != 0 || len(c.deeds) != 1 || c.deeds[0].by != "server-1" {
		t.Errorf("controller manager: %v", c)
	}
	if _, err := read(strings.NewReader(event("system:kube-scheduler", "create", "pods", "9.9.9.9", 201, "")), nodes, leases); err == nil {
		t.Error("a write from elsewhere is no error")
	}
}
