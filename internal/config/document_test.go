package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

func TestDocumentGolden(t *testing.T) {
	cfg := defaults()
	cfg.Labels = map[string]string{"a b": "x\ty\"", "zone": "z1"}
	want := `# node name
name = "n1"

debug = false

# goim frames over TCP
[tcp]
# addresses to listen on, host:port
bind = ["127.0.0.1:3101"]

# pending connections; 1 to 65535
backlog = 128

# time to authenticate; 1s to 1m
timeout = "5s"

# close or drop
policy = "close"

# what one client may use
[tcp.limits]
# rooms a session may be in
rooms = 10

# messages per second
rate = 2.0

# region to provinces
[regions]
bj = ["beijing", "tianjin"]

# labels of the node
[labels]
"a b" = "x\ty\""
zone = "z1"

# who may push
[auth]
# shared secret
token = ""

# older secrets
tokens = []

# ports
ports = []
`
	if got := Document(&cfg); got != want {
		t.Fatalf("got\n%s", got)
	}
	if Document(cfg) != want {
		t.Fatal("a struct by value gives another document than its pointer")
	}
}

// everything has each kind of key, and names and texts that need quoting.
type everything struct {
	S     string        `toml:"s" doc:"two\nlines"`
	B     bool          `toml:"b"`
	I     int           `toml:"i"`
	I8    int8          `toml:"i8"`
	I64   int64         `toml:"i64"`
	U16   uint16        `toml:"u16"`
	F32   float32       `toml:"f32"`
	F64   float64       `toml:"f64"`
	D     time.Duration `toml:"d"`
	Inner struct {
		List  []string            `toml:"list"`
		Ints  []int               `toml:"ints"`
		Map   map[string]string   `toml:"map"`
		Lists map[string][]string `toml:"lists"`
		Deep  struct {
			P policy `toml:"p" secret:"true"`
		} `toml:"deep"`
		Last string `toml:"last"`
	} `toml:"inner" doc:"a section"`
	Empty struct{} `toml:"empty"`
	Tail  string   `toml:"tail"`
}

// Generate makes values that TOML can hold: UTF-8, and nil for empty.
func (everything) Generate(r *rand2, size int) reflect.Value {
	var e everything
	text := func() string {
		runes := []rune("ab=;,.#'\"\\\n\r\t\x00\x01\x7f []{}é界\U0001f600 -_")
		out := make([]rune, r.IntN(8))
		for i := range out {
			out[i] = runes[r.IntN(len(runes))]
		}
		return string(out)
	}
	list := func() (l []string) {
		for range r.IntN(4) {
			l = append(l, text())
		}
		return l
	}
	e.S, e.B, e.I, e.I8, e.I64 = text(), r.IntN(2) == 0, int(r.Uint64()), int8(r.Uint64()), int64(r.Uint64())
	e.U16, e.F32, e.F64 = uint16(r.Uint64()), float32(r.NormFloat64()*1e20), r.NormFloat64()*1e-300
	e.D = time.Duration(r.Int64N(1<<62)) / time.Duration(1+r.IntN(2)*1e9) * time.Duration(1+r.IntN(2)*1e9)
	e.Inner.List, e.Tail, e.Inner.Last, e.Inner.Deep.P = list(), text(), text(), policy(text())
	for range r.IntN(4) {
		e.Inner.Ints = append(e.Inner.Ints, int(r.Uint64()))
	}
	for range r.IntN(4) {
		if e.Inner.Map == nil {
			e.Inner.Map, e.Inner.Lists = map[string]string{}, map[string][]string{}
		}
		e.Inner.Map[text()], e.Inner.Lists[text()] = text(), list()
	}
	return reflect.ValueOf(e)
}

type rand2 = rand.Rand

func TestDocumentLoadsBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		e := everything{}.Generate(r, 0).Interface().(everything)
		text := Document(e)
		// Onto zero values and onto other values: nothing of what was there may survive.
		for _, dst := range []everything{{}, everything{}.Generate(r, 0).Interface().(everything)} {
			got := dst
			if problems := applyText(t, &got, text); len(problems) > 0 {
				t.Fatalf("%v\n%s", problems, text)
			}
			if !reflect.DeepEqual(got, e) {
				t.Fatalf("got  %#v\nwant %#v\n%s", got, e, text)
			}
		}
	}
}

func applyText(t *testing.T, dst any, text string) []Problem {
	t.Helper()
	tr, err := plant(dst)
	if err != nil {
		t.Fatal(err)
	}
	return tr.applyFile("x.toml", []byte(text))
}

func TestDurationsAreShortAndExact(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m", 10 * time.Hour: "10h",
		time.Hour + 5*time.Second: "1h0m5s", 10 * time.Minute: "10m", -time.Hour: "-1h", 1500 * time.Millisecond: "1.5s",
	} {
		if got := renderDuration(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	exact := func(n int64) bool {
		back, err := time.ParseDuration(renderDuration(time.Duration(n)))
		return err == nil && back == time.Duration(n)
	}
	if err := quick.Check(exact, nil); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	cfg := defaults()
	cfg.Auth.Token = "hunter2"
	var b strings.Builder
	for _, k := range Keys(&cfg) {
		fmt.Fprintf(&b, "%s|%s|%s|%s|%s|%v\n", k.Path, k.Env, k.Type, k.Default, k.Doc, k.Secret)
	}
	want := `name|PERSEID_NAME|string|"n1"|node name|false
debug|PERSEID_DEBUG|bool|false||false
tcp.bind|PERSEID_TCP_BIND|list of strings|["127.0.0.1:3101"]|addresses to listen on, host:port|false
tcp.backlog|PERSEID_TCP_BACKLOG|integer|128|pending connections; 1 to 65535|false
tcp.timeout|PERSEID_TCP_TIMEOUT|duration|"5s"|time to authenticate; 1s to 1m|false
tcp.policy|PERSEID_TCP_POLICY|string|"close"|close or drop|false
tcp.limits.rooms|PERSEID_TCP_LIMITS_ROOMS|integer|10|rooms a session may be in|false
tcp.limits.rate|PERSEID_TCP_LIMITS_RATE|number|2.0|messages per second|false
regions|PERSEID_REGIONS|table of string lists|{ bj = ["beijing", "tianjin"] }|region to provinces|false
labels|PERSEID_LABELS|table of strings|{}|labels of the node|false
auth.token|PERSEID_AUTH_TOKEN|string|***|shared secret|true
auth.tokens|PERSEID_AUTH_TOKENS|list of strings|[]|older secrets|true
auth.ports|PERSEID_AUTH_PORTS|list of integers|[]|ports|false
`
	if b.String() != want {
		t.Fatalf("got\n%s", b.String())
	}
}

func TestRedactedHidesSecrets(t *testing.T) {
	cfg := defaults()
	cfg.Auth.Token, cfg.Auth.Tokens = "hunter2", []string{"hunter3"}
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("start", "config", Redacted(&cfg))
	if strings.Contains(b.String(), "hunter") {
		t.Fatalf("leaked: %s", b.String())
	}
	var line struct {
		Config struct {
			Name string
			TCP  struct{ Timeout, Policy string }
			Auth struct{ Token, Tokens string }
		}
	}
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	c := line.Config
	if c.Name != "n1" || c.TCP.Timeout != `"5s"` || c.TCP.Policy != "close" || c.Auth.Token != "***" || c.Auth.Tokens != "***" {
		t.Fatalf("got %s", b.String())
	}
}
