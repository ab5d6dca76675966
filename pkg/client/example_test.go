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
