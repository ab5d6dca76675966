package job_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
)

// place is where a session of a target is.
type place struct {
	comet   string
	session uint64
}

// presence is what the stub logics know: they share it as real ones share Redis.
type presenceStub struct {
	mu     sync.Mutex
	leases []*logicv1.LiveNode
	keys   map[string]place
	mids   map[int64][]place
}

func (p *presenceStub) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// lease lists a comet as it is now, in place of its earlier life.
func (p *presenceStub) lease(c *stubComet) {
	c.mu.Lock()
	node := &logicv1.LiveNode{Node: &logicv1.Node{Name: c.name, Incarnation: c.incarnation}, GrpcAddr: c.addr}
	c.mu.Unlock()
	p.release(c)
	p.set(func() { p.leases = append(p.leases, node) })
}

func (p *presenceStub) release(c *stubComet) {
	p.set(func() {
		kept := p.leases[:0:0]
		for _, n := range p.leases {
			if n.Node.Name != c.name {
				kept = append(kept, n)
			}
		}
		p.leases = kept
	})
}

func (p *presenceStub) locate(items []*logicv1.RouteItem) *logicv1.RouteReply {
	p.mu.Lock()
	defer p.mu.Unlock()
	reply := &logicv1.RouteReply{Nodes: p.leases}
	for _, item := range items {
		r := &logicv1.RouteResult{}
		add := func(target int, places ...place) {
			found := false
			for _, at := range places {
				for i, n := range p.leases {
					if n.Node.Name == at.comet {
						found = true
						r.Locations = append(r.Locations, &logicv1.Location{
							Node: uint32(i), Session: at.session, Target: uint32(target)})
					}
				}
			}
			if !found {
				r.Offline++
			}
		}
		for i, key := range item.Keys {
			if at, ok := p.keys[key]; ok {
				add(i, at)
			} else {
				add(i)
			}
		}
		for i, mid := range item.Mids {
			add(len(item.Keys)+i, p.mids[mid]...)
		}
		reply.Results = append(reply.Results, r)
	}
	return reply
}

// stubLogic is a logic behind a real gRPC server.
type stubLogic struct {
	logicv1.UnimplementedLogicServer
	presence *presenceStub
	addr     string
	server   *grpc.Server

	mu     sync.Mutex
	calls  int
	broken string // what calls answer: "" = well, "break", "error", "hang"

	mostLocations int // in one answer; 0 = any number
}

func newStubLogic(t testing.TB, p *presenceStub) *stubLogic {
	l := &stubLogic{presence: p}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = lis.Addr().String()
	l.server = grpc.NewServer(grpc.KeepaliveEnforcementPolicy(
		keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	logicv1.RegisterLogicServer(l.server, l)
	go func() { _ = l.server.Serve(lis) }()
	t.Cleanup(l.server.Stop)
	return l
}

func (l *stubLogic) set(how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = how
}

func (l *stubLogic) called() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// Route answers in order.
func (l *stubLogic) Route(stream grpc.BidiStreamingServer[logicv1.RouteRequest, logicv1.RouteReply]) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.calls++
		how, most := l.broken, l.mostLocations
		l.mu.Unlock()
		reply := l.presence.locate(in.Items)
		locations := 0
		for _, r := range reply.Results {
			locations += len(r.Locations)
		}
		if most > 0 && locations > most {
			return status.Error(codes.ResourceExhausted, "trying to send message larger than max")
		}
		switch how {
		case "break":
			return errors.New("broken on purpose")
		case "hang":
			<-stream.Context().Done()
			return stream.Context().Err()
		case "error":
			reply = &logicv1.RouteReply{Error: "presence is away"}
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}
