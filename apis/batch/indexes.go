package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// indexRange is a run of indexes, both ends included.
type indexRange struct{ first, last int64 }

func (r indexRange) overlaps(other indexRange) bool {
	return r.first <= other.last && other.first <= r.last
}

// countIndexes counts the indexes in a list such as "1,3-5,7", which must be in order and below completions.
func countIndexes(list string, completions int32) (int64, error) {
	ranges, err := parseIndexes(list, completions)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, r := range ranges {
		total += r.last - r.first + 1
	}
	return total, nil
}

// indexRanges is parseIndexes for lists that have been judged elsewhere.
func indexRanges(list string) []indexRange {
	ranges, err := parseIndexes(list, 1<<31-1)
	if err != nil {
		return nil
	}
	return ranges
}

func parseIndexes(list string, completions int32) ([]indexRange, error) {
	if list == "" {
		return nil, nil
	}
	var ranges []indexRange
	previous := int64(-1)
	for part := range strings.SplitSeq(list, ",") {
		first, end, ranged := strings.Cut(part, "-")
		x, err := parseIndex(first, completions)
		if err != nil {
			return nil, err
		}
		y := x
		if ranged {
			if y, err = parseIndex(end, completions); err != nil {
				return nil, err
			}
		}
		if x <= previous {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", previous, x)
		}
		if ranged && x >= y {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", x, y)
		}
		ranges = append(ranges, indexRange{x, y})
		previous = y
	}
	return ranges, nil
}

func parseIndex(text string, completions int32) (int64, error) {
	index, err := strconv.ParseInt(text, 10, 32)
	if err != nil || index < 0 {
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	}
	if index >= int64(completions) {
		return 0, fmt.Errorf("too large index: %q", text)
	}
	return index, nil
}
