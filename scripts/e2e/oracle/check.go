package oracle

import (
	"cmp"
	"fmt"
	"slices"
)

// maxViolations of one rule are spelled out; all are counted.
const maxViolations = 20

// name is what a producer meant by one message.
type name struct {
	timeline, producer string
	n                  int
}

// place is a message in a timeline.
type place struct {
	timeline string
	id       ID
}

type checker struct {
	run     *Run
	report  Report
	said    map[Rule]int
	sent    map[name]Sent
	at      map[Position]ID       // C4: over everything
	of      map[place]Position    // C4: the other way
	rows    map[string][]Row      // by timeline, in the order of seq
	numbers map[name]map[ID]bool  // ids under which a message appeared
	top     map[string]Position   // of the rows
	tls     map[string]struct{}   // with anything sent
	byApp   map[string][]appOrder // by timeline
}

// appOrder is what one application got of one timeline.
type appOrder struct {
	client string
	got    []Got
}

// Check judges a run.
func Check(r *Run) Report {
	c := &checker{
		run: r, said: map[Rule]int{}, sent: map[name]Sent{}, at: map[Position]ID{}, of: map[place]Position{},
		rows: map[string][]Row{}, numbers: map[name]map[ID]bool{}, top: map[string]Position{}, tls: map[string]struct{}{}, byApp: map[string][]appOrder{},
	}
	c.takeSent()
	c.takeRows()
	for i := range r.Clients {
		c.client(&r.Clients[i])
	}
	c.oneOrder()
	c.windows()
	c.cursors()
	c.report.Timelines = len(c.tls)
	return c.report
}

// broken notes a violation and counts it.
func (c *checker) broken(rule Rule, count *int, format string, args ...any) {
	*count++
	if c.said[rule]++; c.said[rule] <= maxViolations {
		c.report.Violations = append(c.report.Violations, Violation{rule, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) takeSent() {
	ids := map[place]Sent{}
	for _, s := range c.run.Sent {
		c.tls[s.Timeline] = struct{}{}
		c.sent[name{s.Timeline, s.Producer, s.N}] = s
		if !s.Accepted {
			c.report.Unanswered++
			continue
		}
		c.report.Accepted++
		p := place{s.Timeline, s.ID}
		if other, is := ids[p]; is {
			c.broken(C4, &c.report.Renumbered, "%s: %s/%d and %s/%d were answered the same id %x", s.Timeline, other.Producer, other.N, s.Producer, s.N, s.ID)
		}
		ids[p] = s
	}
}

// bind is C4: a position has one message, and a message one position.
func (c *checker) bind(where string, p Position, id ID) {
	if first, is := c.at[p]; is && first != id {
		c.broken(C4, &c.report.Renumbered, "%s: %v is %x, elsewhere it is %x", where, p, id, first)
		return
	}
	c.at[p] = id
	m := place{p.Timeline, id}
	if first, is := c.of[m]; is && first != p {
		c.broken(C4, &c.report.Renumbered, "%s: %x is at %v, elsewhere at %v", where, id, p, first)
		return
	}
	c.of[m] = p
}

func (c *checker) takeRows() {
	for _, r := range c.run.Rows {
		c.rows[r.Timeline] = append(c.rows[r.Timeline], r)
	}
	c.report.Rows = len(c.run.Rows)
	inSQL := map[place]bool{}
	for tl, rows := range c.rows {
		slices.SortFunc(rows, func(a, b Row) int { return cmp.Compare(a.Seq, b.Seq) })
		for i, r := range rows {
			c.bind("SQL", r.Position, r.ID)
			m := place{tl, r.ID}
			if inSQL[m] {
				c.broken(C2, &c.report.RowDuplicates, "SQL: %v is a second row of %x", r.Position, r.ID)
			}
			inSQL[m] = true
			if r.Seq != uint64(i)+1 {
				c.broken(C6, &c.report.Gaps, "SQL: row %d of %s is at %v", i+1, tl, r.Position)
			}
			if r.Epoch != rows[0].Epoch {
				c.broken(C6, &c.report.Gaps, "SQL: %v is of another epoch than the first row", r.Position)
			}
		}
		c.top[tl] = rows[len(rows)-1].Position
	}
	for _, s := range c.run.Sent {
		if s.Accepted && !inSQL[place{s.Timeline, s.ID}] {
			c.broken(C1, &c.report.Lost, "SQL: %s/%d to %s (%x) was accepted and has no row", s.Producer, s.N, s.Timeline, s.ID)
		}
	}
}

// known checks what a message says of itself: C1 and, over all places, C2.
func (c *checker) known(where string, g Got) {
	n := name{g.Timeline, g.Producer, g.N}
	s, is := c.sent[n]
	if !is {
		c.broken(C1, &c.report.Unsent, "%s: %v is %s/%d, which nobody sent there", where, g.Position, g.Producer, g.N)
		return
	}
	if s.Accepted && s.ID != g.ID {
		c.broken(C4, &c.report.Renumbered, "%s: %v is %s/%d with the id %x; it was accepted as %x", where, g.Position, g.Producer, g.N, g.ID, s.ID)
		return
	}
	if c.numbers[n] == nil {
		c.numbers[n] = map[ID]bool{}
	}
	if c.numbers[n][g.ID] = true; len(c.numbers[n]) > 1 {
		c.broken(C2, &c.report.RowDuplicates, "%s: %s/%d is in %s under several ids, now %x", where, g.Producer, g.N, g.Timeline, g.ID)
	}
}

func (c *checker) client(cl *Client) {
	seen := map[Position]bool{}
	for _, g := range cl.Wire {
		c.report.WireSeen++
		if seen[g.Position] {
			c.report.WireRepeats++
		}
		seen[g.Position] = true
		c.bind(cl.Name+"'s wire", g.Position, g.ID)
		c.known(cl.Name+"'s wire", g)
	}
	for _, skip := range cl.Skips {
		c.broken(C6, &c.report.Gaps, "%s was told: %s", cl.Name, skip)
	}
	follows := map[string]bool{}
	for _, tl := range cl.Follows {
		follows[tl] = true
	}
	byTimeline := map[string][]Got{}
	for _, g := range cl.App {
		c.report.Deliveries++
		c.bind(cl.Name, g.Position, g.ID)
		c.known(cl.Name, g)
		byTimeline[g.Timeline] = append(byTimeline[g.Timeline], g)
		if !follows[g.Timeline] {
			c.broken(C1, &c.report.Unsent, "%s got %v, of a timeline it does not follow", cl.Name, g.Position)
		}
	}
	for _, tl := range cl.Follows {
		c.followed(cl.Name, tl, byTimeline[tl])
	}
}

// followed checks what an application got of a timeline that it follows.
func (c *checker) followed(client, tl string, got []Got) {
	ids, names, last := map[ID]bool{}, map[name]bool{}, map[string]int{}
	for i, g := range got {
		n := name{tl, g.Producer, g.N}
		switch {
		case ids[g.ID] || names[n]:
			c.broken(C2, &c.report.AppDuplicates, "%s got %v (%s/%d) twice", client, g.Position, g.Producer, g.N)
		case i > 0 && g.Epoch == got[i-1].Epoch && g.Seq <= got[i-1].Seq:
			c.broken(C3, &c.report.Inversions, "%s got %v after %v", client, g.Position, got[i-1].Position)
		case g.N <= last[g.Producer]:
			c.broken(C3, &c.report.Inversions, "%s got %s/%d at %v after %d of the same producer", client, g.Producer, g.N, g.Position, last[g.Producer])
		case i == 0 && g.Seq != 1, i > 0 && (g.Epoch != got[i-1].Epoch || g.Seq != got[i-1].Seq+1):
			before := "nothing"
			if i > 0 {
				before = got[i-1].String()
			}
			c.broken(C6, &c.report.Gaps, "%s got %v after %s", client, g.Position, before)
		}
		ids[g.ID], names[n], last[g.Producer] = true, true, g.N
	}
	for _, r := range c.rows[tl] {
		if !ids[r.ID] {
			c.broken(C1, &c.report.Lost, "%s never got %v (%x)", client, r.Position, r.ID)
		}
	}
	c.byApp[tl] = append(c.byApp[tl], appOrder{client, got})
}

// oneOrder is C5: of any two messages of a timeline, all who got both got them
// in the same order. Each is compared with the first one that got most.
func (c *checker) oneOrder() {
	for tl, orders := range c.byApp {
		most := slices.MaxFunc(orders, func(a, b appOrder) int { return cmp.Compare(len(a.got), len(b.got)) })
		index := map[ID]int{}
		for i, g := range most.got {
			index[g.ID] = i
		}
		for _, o := range orders {
			highest := -1
			for _, g := range o.got {
				i, is := index[g.ID]
				if is && i < highest {
					c.broken(C5, &c.report.Inversions, "%s: %s and %s got %x in different orders", tl, o.client, most.client, g.ID)
				}
				highest = max(highest, i)
			}
		}
	}
}

func (c *checker) windows() {
	for _, w := range c.run.Windows {
		top := c.top[w.Timeline]
		if w.Top > top.Seq || w.Top > 0 && w.Epoch != top.Epoch {
			c.broken(C6, &c.report.BeyondTop, "Redis: the top of %s is %d:%d, that of the rows %d:%d", w.Timeline, w.Epoch, w.Top, top.Epoch, top.Seq)
		}
		lowest := w.Top + 1
		for seq, id := range w.Entries {
			c.bind("Redis", Position{w.Timeline, w.Epoch, seq}, id)
			lowest = min(lowest, seq)
			if seq > w.Top {
				c.broken(C6, &c.report.BeyondTop, "Redis: %s has an entry %d above its top %d", w.Timeline, seq, w.Top)
			}
		}
		for seq := lowest; seq <= w.Top; seq++ {
			if _, is := w.Entries[seq]; !is {
				c.broken(C6, &c.report.Gaps, "Redis: %s has no entry %d", w.Timeline, seq)
			}
		}
	}
}

func (c *checker) cursors() {
	for _, u := range c.run.Cursors {
		top := c.top[u.Timeline]
		if u.Acked > top.Seq || u.Read > top.Seq || u.Acked+u.Read > 0 && u.Epoch != top.Epoch {
			c.broken(C6, &c.report.BeyondTop, "%s: user %d has acked %d and read %d in epoch %d of %s, whose top is %d:%d",
				u.Where, u.Mid, u.Acked, u.Read, u.Epoch, u.Timeline, top.Epoch, top.Seq)
		}
	}
}
