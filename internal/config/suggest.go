package config

import "strings"

// suggestKey finds the key or section that was probably meant.
func (t *tree) suggestKey(name string) string {
	var candidates []string
	for _, l := range t.leaves {
		candidates = append(candidates, l.key)
	}
	for key := range t.sections {
		if key != "" {
			candidates = append(candidates, key)
		}
	}
	if s := nearest(name, candidates); s != "" {
		return s
	}
	// The right key in the wrong section, if there is only one such key.
	last := name[strings.LastIndexByte(name, '.')+1:]
	found := ""
	for _, l := range t.leaves {
		if l.key[strings.LastIndexByte(l.key, '.')+1:] == last {
			if found != "" {
				return ""
			}
			found = l.key
		}
	}
	return found
}

// nearest is the candidate with the smallest edit distance, if that is small
// enough to be a slip of the hand. Equal ones are decided by the alphabet.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", -1
	for _, c := range candidates {
		limit := max(2, len(name)/4)
		d := distance(fold(name), fold(c))
		if d > limit || d*2 > min(len(name), len(c)) {
			continue
		}
		if bestDistance < 0 || d < bestDistance || d == bestDistance && c < best {
			best, bestDistance = c, d
		}
	}
	return best
}

// fold makes the usual variants of spelling equal: case, and - for _.
func fold(s string) string {
	return strings.ReplaceAll(strings.ToLower(s), "-", "_")
}

// maxCompared bounds the work on absurd names, in bytes.
const maxCompared = 128

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that lead from a to b.
func distance(a, b string) int {
	if len(a) > maxCompared || len(b) > maxCompared {
		return maxCompared
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
