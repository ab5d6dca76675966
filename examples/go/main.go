// Command go connects to Perseid and prints what is pushed to a user and a
// room; it comes back by itself when the connection breaks.
//
//	go run ./examples/go tcp://127.0.0.1:3101 42 live://1000
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: go ADDRESS MID ROOM, such as tcp://127.0.0.1:3101 42 live://1000")
		os.Exit(2)
	}
	mid, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "MID must be an integer")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err = client.Run(ctx, client.Config{
		Address: os.Args[1],
		Auth:    client.Auth{Mid: mid, Platform: "go", Accepts: []wire.Op{1000}},
	}, client.Handler{
		Connected: func(ctx context.Context, c *client.Conn) error {
			results, err := c.Join(ctx, os.Args[3])
			fmt.Println("connected as", c.Session().Key)
			for _, r := range results {
				fmt.Printf("room %s: joined %t %s\n", r.Room, r.OK, r.Reason)
			}
			return err
		},
		Message: func(m client.Message) {
			fmt.Printf("op %d: %s\n", m.Op, m.Body)
		},
		Disconnected: func(err error, retryIn time.Duration) {
			fmt.Println(err, "- next attempt in", retryIn)
		},
	})
	if ctx.Err() == nil { // not by ^C: the server said not to come back
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
