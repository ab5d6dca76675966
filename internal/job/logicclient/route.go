package logicclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/timeline"
)

// routeStream is one Route stream, used by one call at a time.
type routeStream struct {
	stream grpc.BidiStreamingClient[logicv1.RouteRequest, logicv1.RouteReply]
	cancel context.CancelFunc
	opened time.Time
	list   int // number of the list of logics it was opened under
}

// Route asks one logic.
func (c *Client) Route(ctx context.Context, items []job.RouteItem) (job.Routes, error) {
	_, routes, err := c.ask(ctx, items, nil)
	return routes, err
}

// ask makes one call on a stream of its own; fold is nil for Route.
func (c *Client) ask(ctx context.Context, items []job.RouteItem, fold *timeline.Fold) (*logicv1.RouteReply, job.Routes, error) {
	s, life, err := c.take(ctx)
	if err != nil {
		return nil, job.Routes{}, err
	}
	if s.stream == nil {
		if err := s.open(ctx, life, c.client); err != nil {
			return nil, job.Routes{}, fmt.Errorf("logic route: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, s.cancel)
	reply, err := s.exchange(items, fold)
	inTime := stop()
	if err == nil && reply.GetError() != "" {
		err = errors.New(reply.GetError())
	}
	if err == nil {
		err = readStatus(reply)
	}
	var routes job.Routes
	if err == nil {
		routes, err = read(reply, items)
	}
	if inTime && whole(err) {
		c.keep(s)
	} else if err != nil {
		// Whatever it was, another logic may do better.
		s.cancel()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return nil, job.Routes{}, fmt.Errorf("logic route: %w", err)
	}
	return reply, routes, nil
}

// open opens a stream that outlives the call.
func (s *routeStream) open(ctx, life context.Context, client logicv1.LogicClient) error {
	own, cancel := context.WithCancel(life)
	stop := context.AfterFunc(ctx, cancel)
	stream, err := client.Route(own)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return err
	}
	s.stream, s.cancel, s.opened = stream, cancel, time.Now()
	return nil
}

func (s *routeStream) exchange(items []job.RouteItem, fold *timeline.Fold) (*logicv1.RouteReply, error) {
	block := make([]logicv1.RouteItem, len(items))
	list := make([]*logicv1.RouteItem, len(items))
	for i := range items {
		block[i].Keys, block[i].Mids = items[i].Keys, items[i].Mids
		if items[i].Stored != nil {
			block[i].Stored = storedItem(items[i].Stored)
		}
		list[i] = &block[i]
	}
	request := &logicv1.RouteRequest{Items: list}
	if fold != nil {
		request.Fold = writeFold(*fold)
	}
	// An error of Send is io.EOF; Recv tells what it was.
	_ = s.stream.Send(request)
	return s.stream.Recv()
}

// read checks an answer: the job uses the indexes in it unseen.
func read(reply *logicv1.RouteReply, items []job.RouteItem) (job.Routes, error) {
	results := reply.GetResults()
	full := reply.GetStatus() == logicv1.RouteReply_FULL && len(results) < len(items)
	if len(results) != len(items) && !full {
		return job.Routes{}, fmt.Errorf("%d results for %d items", len(results), len(items))
	}
	routes := job.Routes{
		Nodes:   make([]job.Node, len(reply.GetNodes())),
		Results: make([]job.Located, len(results)),
	}
	for i, n := range reply.GetNodes() {
		routes.Nodes[i] = job.Node{
			Name:        n.GetNode().GetName(),
			Incarnation: n.GetNode().GetIncarnation(),
			Addr:        n.GetGrpcAddr(),
		}
	}
	total := 0
	for _, r := range results {
		total += len(r.GetLocations())
	}
	block := make([]job.Location, 0, total)
	for i, r := range results {
		begin := len(block)
		targets := len(items[i].Keys) + len(items[i].Mids)
		for _, at := range r.GetLocations() {
			if int(at.GetNode()) >= len(routes.Nodes) || int(at.GetTarget()) >= targets {
				return job.Routes{}, fmt.Errorf("item %d: location of target %d of %d on node %d of %d",
					i, at.GetTarget(), targets, at.GetNode(), len(routes.Nodes))
			}
			block = append(block, job.Location{Session: at.GetSession(), Node: at.GetNode(), Target: at.GetTarget()})
		}
		routes.Results[i] = job.Located{Locations: block[begin:len(block):len(block)], Offline: int(r.GetOffline())}
		if record := items[i].Stored; record != nil {
			appended, err := readAppended(r.GetAppended(), record)
			if err != nil {
				return job.Routes{}, fmt.Errorf("item %d: %w", i, err)
			}
			routes.Results[i].Appended = appended
		}
	}
	return routes, nil
}
