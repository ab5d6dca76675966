package redisreg

import (
	"fmt"
	"testing"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/testdeps"
)

const benchBatch = 128

func benchSessions() []presence.Session {
	sessions := make([]presence.Session, benchBatch)
	for i := range sessions {
		sessions[i] = presence.Session{ID: uint64(i + 1), Mid: int64(i + 1), Key: fmt.Sprintf("0123456789abcdef-%06d", i)}
	}
	return sessions
}

func benchmarkBatch(b *testing.B, run func(*Registry, presence.Node, []presence.Session) error) {
	r := open(b, testdeps.Redis(b).Addr, long)
	n, sessions := node("comet-1.example.com"), benchSessions()
	for i := range 20 { // a cluster of some size
		info := presence.NodeInfo{Node: node(fmt.Sprintf("comet-%d.example.com", i)), GRPCAddr: "10.0.0.1:3109",
			Region: "sh", Zone: "sh001", Env: "prod", Hostname: "host", PublicAddrs: []string{"203.0.113.1"}}
		if _, err := r.Lease(b.Context(), info, long); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := r.Connect(b.Context(), n, sessions); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := run(r, n, sessions); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchBatch), "ns/item")
}

func BenchmarkConnect128(b *testing.B) {
	benchmarkBatch(b, func(r *Registry, n presence.Node, sessions []presence.Session) error {
		b.StopTimer()
		err := r.Disconnect(b.Context(), n, sessions)
		b.StartTimer()
		if err == nil {
			_, err = r.Connect(b.Context(), n, sessions)
		}
		return err
	})
}

func BenchmarkRenew128(b *testing.B) {
	benchmarkBatch(b, func(r *Registry, n presence.Node, sessions []presence.Session) error {
		return r.Renew(b.Context(), n, sessions)
	})
}

func BenchmarkDisconnect128(b *testing.B) {
	benchmarkBatch(b, func(r *Registry, n presence.Node, sessions []presence.Session) error {
		b.StopTimer()
		_, err := r.Connect(b.Context(), n, sessions)
		b.StartTimer()
		if err == nil {
			err = r.Disconnect(b.Context(), n, sessions)
		}
		return err
	})
}

// BenchmarkLocateKeys128 asks for 128 keys, one a query, as job's Route does.
func BenchmarkLocateKeys128(b *testing.B) {
	queries := make([]presence.Query, 0, benchBatch)
	for _, s := range benchSessions() {
		queries = append(queries, presence.Query{Keys: []string{s.Key}})
	}
	benchmarkLocate(b, queries)
}

func BenchmarkLocateUsers128(b *testing.B) {
	queries := make([]presence.Query, 0, benchBatch)
	for _, s := range benchSessions() {
		queries = append(queries, presence.Query{Mids: []int64{s.Mid}})
	}
	benchmarkLocate(b, queries)
}

func benchmarkLocate(b *testing.B, queries []presence.Query) {
	benchmarkBatch(b, func(r *Registry, _ presence.Node, _ []presence.Session) error {
		located, err := r.Locate(b.Context(), queries)
		if err == nil && len(located.Results[benchBatch-1]) != 1 {
			err = fmt.Errorf("located %+v", located.Results)
		}
		return err
	})
}
