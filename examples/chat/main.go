// Command chat is a chat of two users on a command line: what is typed goes to
// the other one, who gets it once and in order, now or when they come back.
//
//	go run ./examples/chat tcp://127.0.0.1:3101 1 2 cursors-1.json
//	go run ./examples/chat tcp://127.0.0.1:3101 2 1 cursors-2.json
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: chat ADDRESS MY_MID OTHER_MID CURSOR_FILE, such as tcp://127.0.0.1:3101 1 2 cursors-1.json")
		os.Exit(2)
	}
	mid, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "MY_MID must be an integer")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.New(client.Config{Address: os.Args[1], Auth: client.Auth{Mid: mid}, Cursors: file(os.Args[4])})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	go speak(ctx, c, "u:"+os.Args[3])
	err = c.Run(ctx, client.Handler{
		Message: func(m client.Message) {
			if m.Sender > 0 { // chat also goes to the sender's own devices
				fmt.Printf("%s  %d: %s\n", time.UnixMilli(m.AcceptedMS).Format(time.TimeOnly), m.Sender, m.Body)
			}
		},
		Skipped: func(s client.Skip) {
			fmt.Printf("-- some of %s is lost (reset %v, %d to %d)\n", s.Timeline, s.Reset, s.From, s.To)
		},
		Disconnected: func(err error, retryIn time.Duration) {
			fmt.Println("--", err, "- next attempt in", retryIn)
		},
	})
	if ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// speak sends each line until it is accepted.
func speak(ctx context.Context, c *client.Client, to string) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		m := client.Outgoing{To: to, Op: 1000, Body: []byte(lines.Text())}
		if _, err := c.Publish(ctx, m); err != nil {
			fmt.Println("-- not sent:", err)
		}
	}
}

// file keeps cursors in a JSON file. Run calls it from one goroutine.
type file string

// Load implements client.CursorStore.
func (f file) Load(_ context.Context, timeline string) (client.Cursor, bool, error) {
	all, err := f.read()
	c, ok := all[timeline]
	return c, ok, err
}

// Save implements client.CursorStore.
func (f file) Save(_ context.Context, timeline string, c client.Cursor) error {
	all, err := f.read()
	if err != nil {
		return err
	}
	all[timeline] = c
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	// A program that is killed in between leaves the old file, whole.
	if err := os.WriteFile(string(f)+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(string(f)+".new", string(f))
}

func (f file) read() (map[string]client.Cursor, error) {
	all := map[string]client.Cursor{}
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	return all, err
}
