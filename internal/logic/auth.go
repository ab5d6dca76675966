package logic

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/perseid-im/perseid/internal/message"
)

// Identity is what an accepted auth packet says about a session.
type Identity struct {
	Mid      int64  // user; 0 or less = no user
	Key      string // "" = logic makes one
	Room     string // first room, "" = none
	Platform string
	Accepts  []int32 // operations the session wants
}

// Authenticator decides who a client is. It is called for every connection,
// concurrently. An error that is a *BadToken tells the client to stay away;
// any other error means "could not be decided": the client shall reconnect.
type Authenticator interface {
	Authenticate(ctx context.Context, token []byte, cookie, ip string) (Identity, error)
}

// BadToken is an auth packet that no repetition makes better.
type BadToken struct {
	Field string // field of the JSON, or "token"
	Rule  string // what is allowed; never a part of the token
}

func (e *BadToken) Error() string { return e.Field + ": " + e.Rule }

// Limits of an auth packet; goim bounds only the packet.
const (
	maxTokenBytes = 4096
	maxAccepts    = 1024
)

// TrustClient is goim's authentication, which is none: whoever connects is
// believed to be the mid and to own the key that it names, so a client can
// read the pushes of any user and replace any connection. Use it only behind
// something that authenticates, or where that does not matter.
type TrustClient struct{}

var _ Authenticator = TrustClient{}

// Authenticate reads goim's auth JSON and believes it.
func (TrustClient) Authenticate(_ context.Context, token []byte, _, _ string) (Identity, error) {
	return ParseAuth(token)
}

// ParseAuth reads goim's auth JSON. Fields that it does not know are ignored,
// as goim does and as newer clients need. The error is a *BadToken.
func ParseAuth(token []byte) (Identity, error) {
	if len(token) > maxTokenBytes {
		return Identity{}, &BadToken{"token", fmt.Sprintf("at most %d bytes", maxTokenBytes)}
	}
	var auth struct {
		Mid      int64   `json:"mid"`
		Key      string  `json:"key"`
		Room     string  `json:"room_id"`
		Platform string  `json:"platform"`
		Accepts  []int32 `json:"accepts"`
	}
	if !startsObject(token) {
		return Identity{}, &BadToken{"token", "a JSON object"}
	}
	if err := json.Unmarshal(token, &auth); err != nil {
		return Identity{}, authRule(err)
	}
	if len(auth.Key) > message.MaxKeyBytes {
		return Identity{}, &BadToken{"key", fmt.Sprintf("at most %d bytes", message.MaxKeyBytes)}
	}
	if auth.Room != "" {
		if err := message.CheckRoomKey(auth.Room); err != nil {
			return Identity{}, &BadToken{"room_id", err.Error()}
		}
	}
	if len(auth.Accepts) > maxAccepts {
		return Identity{}, &BadToken{"accepts", fmt.Sprintf("at most %d operations", maxAccepts)}
	}
	return Identity{auth.Mid, auth.Key, auth.Room, auth.Platform, auth.Accepts}, nil
}

func startsObject(token []byte) bool {
	for _, b := range token {
		switch b {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return b == '{'
	}
	return false
}

// authRule names the field without repeating what the client sent.
func authRule(err error) *BadToken {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return &BadToken{"token", "one complete JSON object"}
	}
	rules := map[string]string{
		"mid":      "an integer of 64 bits",
		"key":      "a string",
		"room_id":  "a string",
		"platform": "a string",
		"accepts":  "a list of integers of 32 bits",
	}
	if rule, ok := rules[wrong.Field]; ok {
		return &BadToken{wrong.Field, rule}
	}
	return &BadToken{"token", "a JSON object with mid, key, room_id, platform and accepts of the right types"}
}

// newKey is a random UUID, version 4, as goim gives to clients without a key.
func newKey(random io.Reader) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
