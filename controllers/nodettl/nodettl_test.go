package nodettl

import "testing"

func TestNext(t *testing.T) {
	cases := map[string]struct{ at, nodes, ttl int }{
		"small":                 {0, 10, 0},
		"grows":                 {0, 101, 15},
		"grows by much":         {0, 5000, 300},
		"shrinks a little":      {1, 95, 15},
		"shrinks":               {1, 89, 0},
		"shrinks by very much":  {4, 1, 0},
		"stays between borders": {2, 950, 30},
	}
	for name, tc := range cases {
		if got := steps[next(tc.at, tc.nodes)].ttl; got != tc.ttl {
			t.Errorf("%s: %d s, want %d s", name, got, tc.ttl)
		}
	}
}
