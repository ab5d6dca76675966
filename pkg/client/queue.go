package client

import (
	"context"
	"sync"
)

// messageCost is what a message occupies besides its body.
const messageCost = 64

// queue holds the messages between the reader and Recv, bounded in bytes.
type queue struct {
	limit int // bytes; admission ends here
	extra int // bytes on top while a call waits for its reply

	mu       sync.Mutex
	messages []Message
	head     int
	bytes    int
	waiting  int  // calls whose replies stand behind what is not read yet
	finished bool // nothing more will come
	dropped  bool // nobody will receive

	arrived chan struct{} // holds a token when Recv has something to look at
	room    chan struct{} // holds a token when put has
}

func newQueue(limit, extra int) *queue {
	return &queue{limit: limit, extra: extra, arrived: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put waits for room; false means that nobody will receive. Only the reader
// calls it.
func (q *queue) put(m Message) bool {
	for {
		q.mu.Lock()
		switch {
		case q.dropped:
			q.mu.Unlock()
			return false
		case q.bytes < q.limit, q.waiting > 0 && q.bytes < q.limit+q.extra:
			q.messages = append(q.messages, m)
			q.bytes += messageCost + len(m.Body)
			q.mu.Unlock()
			signal(q.arrived)
			return true
		}
		q.mu.Unlock()
		<-q.room
	}
}

// force puts without waiting. It is for the few events that do not come from
// the reader.
func (q *queue) force(m Message) {
	q.mu.Lock()
	if !q.dropped && !q.finished {
		q.messages = append(q.messages, m)
		q.bytes += messageCost
	}
	q.mu.Unlock()
	signal(q.arrived)
}

// get returns the oldest message. ok is false when there are none left and none
// will come.
func (q *queue) get(ctx context.Context) (m Message, ok bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return Message{}, false, err
		}
		if m, ok, end := q.take(); ok || end {
			return m, ok, nil
		}
		select {
		case <-q.arrived:
		case <-ctx.Done():
		}
	}
}

func (q *queue) take() (m Message, ok, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.messages) {
		if q.finished || q.dropped {
			signal(q.arrived) // for the next receiver
			return Message{}, false, true
		}
		return Message{}, false, false
	}
	m = q.messages[q.head]
	q.messages[q.head] = Message{}
	q.head++
	q.bytes -= messageCost + len(m.Body)
	switch {
	case q.head == len(q.messages):
		q.messages, q.head = q.messages[:0], 0
	case q.head >= 1024 && q.head > len(q.messages)/2:
		n := copy(q.messages, q.messages[q.head:])
		clear(q.messages[n:])
		q.messages, q.head = q.messages[:n], 0
	}
	if q.head < len(q.messages) || q.finished {
		signal(q.arrived)
	}
	signal(q.room)
	return m, true, false
}

// await tells that a call waits for a reply (1), or no longer does (-1).
func (q *queue) await(delta int) {
	q.mu.Lock()
	q.waiting += delta
	q.mu.Unlock()
	signal(q.room)
}

// finish is the reader's last word.
func (q *queue) finish() {
	q.mu.Lock()
	q.finished = true
	q.mu.Unlock()
	signal(q.arrived)
}

// drop throws away what waits and lets go of the reader.
func (q *queue) drop() {
	q.mu.Lock()
	q.dropped = true
	q.messages, q.head, q.bytes = nil, 0, 0
	q.mu.Unlock()
	signal(q.room)
	signal(q.arrived)
}
