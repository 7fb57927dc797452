package heap

import (
	"testing"
	"time"
)

func TestPercentFor(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		live, headroom uint64
		want           int
	}{
		"before the first collection": {0, 64 * mb, maxPercent},
		"small":                       {8 * mb, 64 * mb, maxPercent},
		"as large as the headroom":    {64 * mb, 64 * mb, 150},
		"ten times":                   {640 * mb, 64 * mb, 60},
		"huge":                        {640_000 * mb, 64 * mb, minPercent},
	} {
		if got := percentFor(c.live, c.headroom); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestGivesBackOnlyAtRest(t *testing.T) {
	const mb = 1 << 20
	before := reading{live: 100 * mb, allocated: 1000 * mb}
	perSecond := func(bytes uint64) reading {
		return reading{live: 100 * mb, allocated: before.allocated + bytes*uint64(every/time.Second)}
	}
	if !resting(before, perSecond(quiet/2)) || resting(before, perSecond(quiet)) {
		t.Error("rest is not told from load")
	}
	for surplus, want := range map[uint64]bool{10 * mb: false, 41 * mb: false, 42 * mb: true} {
		if got := worthGivingBack(reading{live: 100 * mb, surplus: surplus}, 64*mb); got != want {
			t.Errorf("surplus of %d MB: got %v", surplus/mb, got)
		}
	}
}

// TestRead holds the names of the metrics against the runtime.
func TestRead(t *testing.T) {
	before := read()
	garbage := make([]byte, 32<<20)
	after := read()
	if after.allocated-before.allocated < uint64(len(garbage)) {
		t.Errorf("allocated %d bytes, counted %d", len(garbage), after.allocated-before.allocated)
	}
	if after.surplus < uint64(len(garbage)) {
		t.Errorf("a surplus of %d bytes after %d were allocated", after.surplus, len(garbage))
	}
}
