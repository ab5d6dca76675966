package kafkastream

import (
	"errors"
	"slices"
	"testing"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/stream"
)

// A worker that was replaced says nothing about the records of its successor.
func TestReplacedWorkerMarksNothing(t *testing.T) {
	var marks []int64
	c := newClaim(claimed{
		maxRecords: 100, maxBytes: 1000,
		mark:  func(o int64) { marks = append(marks, o) },
		pause: func(bool) {}, lag: func(int64) {},
	})
	for o := range int64(3) {
		c.push(&sarama.ConsumerMessage{Offset: o})
	}
	first := c.start()
	if _, err := first.take(3); err != nil {
		t.Fatal(err)
	}
	first.Complete(0)
	first.end()
	second := c.start()
	if got, err := second.take(3); err != nil || len(got) != 2 || got[0].Offset != 1 {
		t.Fatalf("the successor got %d records, %v", len(got), err)
	}
	first.Complete(1)
	if _, err := first.take(1); !errors.Is(err, stream.ErrRevoked) {
		t.Errorf("the first worker's Next: %v", err)
	}
	if !slices.Equal(marks, []int64{1}) {
		t.Errorf("marks: %v", marks)
	}
	second.Complete(1)
	if !slices.Equal(marks, []int64{1, 2}) {
		t.Errorf("marks: %v", marks)
	}
}

func TestBytesBoundWhatIsInFlight(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	var paused []bool
	var marks []int64
	c := newClaim(claimed{
		maxRecords: 100, maxBytes: 1000, maxBodyBytes: cfg.MaxBodyBytes(),
		mark:  func(o int64) { marks = append(marks, o) },
		pause: func(p bool) { paused = append(paused, p) },
		lag:   func(int64) {},
	})
	w := c.start()
	for o := range int64(12) {
		c.push(&sarama.ConsumerMessage{Offset: o * 2, Value: make([]byte, 300)})
	}
	if !slices.Equal(paused, []bool{true}) {
		t.Errorf("pauses: %v", paused)
	}
	for _, step := range []struct{ complete, want int64 }{{-1, 3}, {2, 0}, {0, 2}, {4, 1}} {
		if step.complete >= 0 {
			w.Complete(step.complete)
		}
		got, err := w.take(100)
		if err != nil || int64(len(got)) != step.want {
			t.Errorf("after completing %d: %d records, %v; want %d", step.complete, len(got), err, step.want)
		}
	}
	if !slices.Equal(marks, []int64{3, 5}) {
		t.Errorf("marks: %v", marks)
	}
	// A record above the whole bound still gets through, alone.
	c.push(&sarama.ConsumerMessage{Offset: 100, Value: make([]byte, 5000)})
	last := int64(0)
	for o := int64(6); o < 24; o += 2 {
		w.Complete(o)
		got, err := w.take(100)
		if err != nil {
			t.Fatal(err)
		}
		for _, msg := range got {
			last = msg.Offset
		}
	}
	if last != 100 {
		t.Errorf("the last record given out is %d", last)
	}
	if !slices.Equal(paused, []bool{true, false}) {
		t.Errorf("pauses: %v", paused)
	}
}
