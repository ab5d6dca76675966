package config

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"biind", "bind", 1}, {"tpc", "tcp", 1},
		{"timeuot", "timeout", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s %s: got %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("%s %s: got %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"tcp.bind", "ws.bind", "tcp.timeout", "id"}
	for name, want := range map[string]string{
		"tcp.biind":   "tcp.bind",
		"TCP.Bind":    "tcp.bind",
		"tcp-bind":    "tcp.bind",
		"tcp.timout":  "tcp.timeout",
		"xy":          "", // every short name is near to every other
		"kafka.topic": "",
	} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
