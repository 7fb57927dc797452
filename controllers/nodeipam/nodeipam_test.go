package nodeipam

import (
	"net/netip"
	"testing"
)

func TestNext(t *testing.T) {
	cases := map[string]struct {
		cluster, service []string
		bits             int
		used             []string
		want             string // empty: none is left
	}{
		"the first one":          {[]string{"10.244.0.0/16"}, nil, 24, nil, "10.244.0.0/24"},
		"the lowest free one":    {[]string{"10.244.0.0/16"}, nil, 24, []string{"10.244.0.0/24", "10.244.2.0/24"}, "10.244.1.0/24"},
		"across a byte":          {[]string{"10.0.0.0/8"}, []string{"10.0.0.0/16"}, 24, nil, "10.1.0.0/24"},
		"odd sizes":              {[]string{"10.0.0.0/16"}, nil, 20, []string{"10.0.0.0/20"}, "10.0.16.0/20"},
		"none left":              {[]string{"10.0.0.0/23"}, nil, 24, []string{"10.0.0.0/24", "10.0.1.0/24"}, ""},
		"the end of all":         {[]string{"255.255.255.0/24"}, nil, 25, []string{"255.255.255.0/25", "255.255.255.128/25"}, ""},
		"the size of the whole":  {[]string{"10.0.0.0/24"}, nil, 24, nil, "10.0.0.0/24"},
		"six has its own number": {[]string{"fd00::/48"}, nil, 64, nil, "fd00::/64"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ranges, err := Parse(tc.cluster, tc.service, tc.bits, 64)
			if err != nil {
				t.Fatal(err)
			}
			used := map[netip.Prefix]bool{}
			for _, text := range tc.used {
				used[netip.MustParsePrefix(text)] = true
			}
			got, err := ranges.next(used)
			if (err != nil) != (tc.want == "") {
				t.Fatalf("next() error = %v", err)
			}
			if err == nil && got[0].String() != tc.want {
				t.Errorf("next() = %v, want %s", got, tc.want)
			}
		})
	}
}
