package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
)

func ExampleDial() {
	comet := clienttest.NewComet(60) // stands for a running perseid
	defer comet.Close()
	ctx := context.Background()

	c, err := client.Dial(ctx, client.Config{
		Address: comet.TCP, // such as tcp://127.0.0.1:3101
		Auth:    client.Auth{Mid: 42, Key: "phone-1", Accepts: []wire.Op{1000}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println("key", c.Session().Key)

	comet.PushMid(42, 1000, "hello")
	m, err := c.Recv(ctx)
	fmt.Println(m.Op, string(m.Body), err)
	// Output:
	// key phone-1
	// 1000 hello <nil>
}

func ExampleConn_Join() {
	comet := clienttest.NewComet(60)
	defer comet.Close()
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{Address: comet.WebSocket})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	results, err := c.Join(ctx, "live://1000", "not a room")
	for _, r := range results {
		fmt.Printf("%s: %t %q\n", r.Room, r.OK, r.Reason)
	}
	fmt.Println(err)
	// Output:
	// live://1000: true ""
	// not a room: false "a room is type://id"
	// <nil>
}

func ExampleRun() {
	comet := clienttest.NewComet(60)
	defer comet.Close()

	err := client.Run(context.Background(), client.Config{
		Address: comet.TCP,
		Auth:    client.Auth{Mid: 42, Accepts: []wire.Op{1000}},
	}, client.Handler{
		Connected: func(ctx context.Context, c *client.Conn) error {
			_, err := c.Join(ctx, "live://1000")
			comet.PushRoom("live://1000", 1000, "first", "second")
			return err
		},
		Message: func(m client.Message) {
			fmt.Println(string(m.Body))
			if string(m.Body) == "second" {
				comet.Bye(clienttest.Bye{Code: 3501, Reason: "kicked"})
			}
		},
	})
	if closed, ok := errors.AsType[*client.CloseError](err); ok {
		fmt.Println(closed.Code, closed.Reason)
	}
	// Output:
	// first
	// second
	// 3501 kicked
}

// What was stored while nobody was there comes first, then what is pushed;
// each message once, in order, however connections end.
func ExampleClient() {
	comet := clienttest.NewComet(60)
	defer comet.Close()
	comet.Store("u:42", 1000, "while you were away", "and this")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	bob, err := client.New(client.Config{
		Address: comet.TCP,
		Auth:    client.Auth{Mid: 42},
		Cursors: &client.MemoryCursors{}, // of a real device: a file or a table
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = bob.Run(ctx, client.Handler{
		Message: func(m client.Message) {
			fmt.Printf("%s %d: %s\n", m.Timeline, m.Seq, m.Body)
			switch m.Seq {
			case 2:
				comet.Store("u:42", 1000, "now")
			case 3:
				stop()
			}
		},
		Skipped: func(s client.Skip) { fmt.Println("lost:", s) },
	})
	fmt.Println(err)
	// Output:
	// u:42 1: while you were away
	// u:42 2: and this
	// u:42 3: now
	// context canceled
}

func ExampleClient_Publish() {
	comet := clienttest.NewComet(60)
	defer comet.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	alice, err := client.New(client.Config{Address: comet.TCP, Auth: client.Auth{Mid: 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ran := make(chan error)
	go func() { ran <- alice.Run(ctx, client.Handler{Message: func(client.Message) {}}) }()

	// Publish waits for a connection, and goes on until the message is kept.
	id, err := alice.Publish(ctx, client.Outgoing{To: "u:42", Op: 1000, Body: []byte("hello")})
	fmt.Println(len(id), err)
	stop()
	fmt.Println(<-ran)
	// Output:
	// 32 <nil>
	// context canceled
}
