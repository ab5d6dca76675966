package app

import (
	"fmt"
	"testing"
	"time"
)

// The all-in-one is started again: its Redis is empty, its Kafka may count
// generations from the start; the numbers go on where they were, at once, and a
// caller that repeats an old push makes no new message.
func TestNumbersGoOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	const lives, each = 3, 5
	for life := range lives {
		t.Run(fmt.Sprint("life ", life), func(t *testing.T) {
			addrs := startAllInOne(t, func(c *AllInOneConfig) { c.DataDir = dir })
			base := "http://" + addrs["http"]
			push := func(n int) {
				body := fmt.Sprintf(`{"op":1000,"kind":"notice","body":"m%d","targets":[{"mid":7}]}`, n)
				if status, answer := postKey(t, base+"/v1/push", fmt.Sprint("key ", n), body); status != 202 {
					t.Fatalf("push %d: %d %s", n, status, answer)
				}
			}
			began := time.Now()
			if life > 0 {
				push(0)
			}
			for i := range each {
				push(life*each + i)
			}
			want := (life + 1) * each
			for deadline := time.Now().Add(time.Minute); ; {
				page := kept(t, base, "u:7")
				for i, m := range page.Messages {
					if m.Seq != uint64(i+1) || string(m.Body) != fmt.Sprintf("m%d", i) {
						t.Fatalf("place %d has %d %q", i, m.Seq, m.Body)
					}
				}
				if len(page.Messages) == want && page.Top == uint64(want) {
					t.Logf("%d messages after %v", want, time.Since(began).Round(time.Millisecond))
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d messages of %d, top %d", len(page.Messages), want, page.Top)
				}
				<-time.After(5 * time.Millisecond)
			}
		})
	}
}
