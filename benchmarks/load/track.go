package load

// unknownSeq stands for a connection that came after publishing began: its
// first message tells where it joined.
const unknownSeq = ^uint32(0)

// maxGaps bounds what a connection remembers of missing messages. Beyond it
// the oldest gap is forgotten: its messages stay missing, and one that comes
// late after all counts as ambiguous.
const maxGaps = 64

// gap is a range of missing numbers of a stream, to is not part of it.
type gap struct {
	stream   uint8
	from, to uint32
}

// gaps exist only on connections that have missed something.
type gaps struct {
	list      []gap
	forgotten bool
}

// verdict on a message whose number is not the next one.
type verdict uint8

const (
	joined     verdict = iota // the first of a connection that came later
	skipped                   // some before it are missing
	inverted                  // one that was missing came after a later one
	duplicated                // seen before
	ambiguous                 // seen before, or missing and forgotten
)

// judge handles a number that is not *next. It returns how the count of
// missing messages changes.
func judge(g **gaps, next *uint32, stream uint8, seq uint32) (v verdict, missing int32) {
	switch {
	case *next == unknownSeq:
		*next = seq + 1
		return joined, 0
	case seq >= *next:
		if *g == nil {
			*g = &gaps{}
		}
		(*g).add(gap{stream, *next, seq})
		missing = int32(seq - *next)
		*next = seq + 1
		return skipped, missing
	case *g != nil && (*g).fill(stream, seq):
		return inverted, -1
	case *g != nil && (*g).forgotten:
		return ambiguous, 0
	}
	return duplicated, 0
}

func (g *gaps) add(one gap) {
	if len(g.list) == maxGaps {
		g.list = append(g.list[:0], g.list[1:]...)
		g.forgotten = true
	}
	g.list = append(g.list, one)
}

// fill takes seq out of the missing ones and says whether it was among them.
func (g *gaps) fill(stream uint8, seq uint32) bool {
	for i := range g.list {
		one := &g.list[i]
		if one.stream != stream || seq < one.from || seq >= one.to {
			continue
		}
		rest := gap{stream, seq + 1, one.to}
		one.to = seq
		switch {
		case one.from == one.to && rest.from == rest.to:
			g.list = append(g.list[:i], g.list[i+1:]...)
		case one.from == one.to:
			*one = rest
		case rest.from < rest.to:
			g.add(rest)
		}
		return true
	}
	return false
}
