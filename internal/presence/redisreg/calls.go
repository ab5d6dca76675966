package redisreg

import (
	"slices"

	"github.com/perseid-im/perseid/internal/redisconn"
)

// maxCallKeys bounds how long a call keeps Redis from everybody else: about a
// millisecond.
const maxCallKeys = 128

// calls is one script, or one command, on many keys: in calls of at most
// maxCallKeys.
type calls struct {
	script *redisconn.Script
	name   string // of a command without a script, which has no arguments but keys
	common []any  // arguments of the script before those of the keys
	keys   []string
	args   []any // as many of each key
}

func (c *calls) add(key string, args ...any) {
	c.keys = append(c.keys, key)
	c.args = append(c.args, args...)
}

// commands appends the calls to those of a pipeline.
func (c *calls) commands(to []redisconn.Command) []redisconn.Command {
	for from := 0; from < len(c.keys); from += maxCallKeys {
		end := min(from+maxCallKeys, len(c.keys))
		call := redisconn.Command{Script: c.script, Name: c.name, Keys: c.keys[from:end]}
		if c.script == nil {
			call.Args = make([]any, 0, end-from)
			for _, key := range call.Keys {
				call.Args = append(call.Args, key)
			}
		} else {
			width := len(c.args) / len(c.keys)
			call.Args = slices.Concat(c.common, c.args[from*width:end*width])
		}
		to = append(to, call)
	}
	return to
}

// values are what calls answered that give a value or nil per key, by key.
func (c *calls) values(replies []any) ([][]byte, error) {
	values := make([][]byte, 0, len(c.keys))
	for _, reply := range replies {
		list, ok := reply.([]any)
		if !ok {
			return nil, errReply
		}
		for _, one := range list {
			value, ok := one.([]byte)
			if !ok && one != nil {
				return nil, errReply
			}
			values = append(values, value)
		}
	}
	if len(values) != len(c.keys) {
		return nil, errReply
	}
	return values, nil
}
