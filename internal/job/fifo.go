package job

// fifo is a queue in one slice.
type fifo struct {
	items []delivery
	head  int
}

func (q *fifo) waiting() []delivery { return q.items[q.head:] }

func (q *fifo) push(d delivery) {
	if len(q.items) == cap(q.items) && q.head >= len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, d)
}

// drop takes n off the front. Memory of a burst is given back when it is over.
func (q *fifo) drop(n int) {
	clear(q.items[q.head : q.head+n])
	q.head += n
	if q.head < len(q.items) {
		return
	}
	q.items, q.head = q.items[:0], 0
	if cap(q.items) > 1024 {
		q.items = nil
	}
}

func (q *fifo) putBack(ds []delivery) {
	q.items, q.head = append(ds, q.waiting()...), 0
}
