package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

type policy string

type edge struct {
	Bind    []string      `toml:"bind" doc:"addresses to listen on, host:port"`
	Backlog uint16        `toml:"backlog" doc:"pending connections; 1 to 65535"`
	Timeout time.Duration `toml:"timeout" doc:"time to authenticate; 1s to 1m"`
	Policy  policy        `toml:"policy" doc:"close or drop"`
	Limits  limits        `toml:"limits" doc:"what one client may use"`
}

func (e *edge) Problems() []string {
	var p []string
	if len(e.Bind) == 0 {
		p = append(p, "bind = []: at least one address")
	}
	if e.Timeout < time.Second || e.Timeout > time.Minute {
		p = append(p, "timeout = "+e.Timeout.String()+": 1s to 1m")
	}
	if e.Policy == "both" {
		p = append(p, "policy and limits.rooms exclude each other")
	}
	return p
}

type limits struct {
	Rooms int8    `toml:"rooms" doc:"rooms a session may be in"`
	Rate  float64 `toml:"rate" doc:"messages per second"`
}

func (l *limits) Problems() []string {
	if l.Rooms < 0 {
		return []string{"rooms = -1: 0 or more"}
	}
	return nil
}

type sample struct {
	Name    string              `toml:"name" doc:"node name"`
	Debug   bool                `toml:"debug"`
	TCP     edge                `toml:"tcp" doc:"goim frames over TCP"`
	Regions map[string][]string `toml:"regions" doc:"region to provinces"`
	Labels  map[string]string   `toml:"labels" doc:"labels of the node"`
	Auth    auth                `toml:"auth" doc:"who may push"`
	Clock   func() time.Time    `toml:"-"`
	_       int                 // unexported fields are not looked at
}

type auth struct {
	Token  string   `toml:"token" secret:"true" doc:"shared secret"`
	Tokens []string `toml:"tokens" secret:"true" doc:"older secrets"`
	Ports  []int    `toml:"ports" doc:"ports"`
}

func (a *auth) Problems() []string {
	if strings.HasPrefix(a.Token, "weak") {
		return []string{"token = " + a.Token + ": not " + a.Token}
	}
	return nil
}

func defaults() sample {
	return sample{
		Name: "n1",
		TCP: edge{Bind: []string{"127.0.0.1:3101"}, Backlog: 128, Timeout: 5 * time.Second, Policy: "close",
			Limits: limits{Rooms: 10, Rate: 2}},
		Regions: map[string][]string{"bj": {"beijing", "tianjin"}},
	}
}

func writeTemp(t *testing.T, text string) string {
	t.Helper()
	t.Chdir(t.TempDir()) // so that sources in errors are short and stable
	if err := os.WriteFile("x.toml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "x.toml"
}

func TestLayersOverrideEachOther(t *testing.T) {
	file := writeTemp(t, `
name = "file"
debug = true
[tcp]
bind = ["f:1", "f:2"]
backlog = 7
timeout = "7s"
limits = { rooms = 3, rate = 4 }
[labels]
zone = "z1"
`)
	cfg := defaults()
	err := Load(&cfg, Options{
		File: file,
		Env: []string{"PATH=/bin", "PERSEID_TCP_BACKLOG=8", "PERSEID_TCP_TIMEOUT=8s", "PERSEID_AUTH_PORTS=1, 2",
			"PERSEID_REGIONS=sh=shanghai, jiangsu;gd=guangdong", "PERSEID_TCP_LIMITS_RATE=0.5"},
		Sets: []string{"tcp.timeout=9s", "regions.gd=", "auth.token=a=b,c", "labels.x.y=1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := sample{
		Name: "file", Debug: true,
		TCP: edge{Bind: []string{"f:1", "f:2"}, Backlog: 8, Timeout: 9 * time.Second, Policy: "close",
			Limits: limits{Rooms: 3, Rate: 0.5}},
		Regions: map[string][]string{"sh": {"shanghai", "jiangsu"}, "gd": nil},
		Labels:  map[string]string{"zone": "z1", "x.y": "1"},
		Auth:    auth{Token: "a=b,c", Ports: []int{1, 2}},
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Fatalf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestNoLayersKeepsDefaults(t *testing.T) {
	cfg := defaults()
	if err := Load(&cfg, Options{}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, defaults()) {
		t.Fatalf("got %+v", cfg)
	}
}

// Defaults may share lists and maps with others; loading must not write into them.
func TestLoadDoesNotWriteIntoSharedValues(t *testing.T) {
	cfg := defaults()
	bind, regions := cfg.TCP.Bind, cfg.Regions
	if err := Load(&cfg, Options{Sets: []string{"tcp.bind=x:1", "regions.bj=x", "regions.sh=y"}}); err != nil {
		t.Fatal(err)
	}
	if bind[0] != "127.0.0.1:3101" || len(regions) != 1 || regions["bj"][0] != "beijing" {
		t.Fatalf("shared values changed: %v %v", bind, regions)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	file := writeTemp(t, `nmae = "x"
[tcp]
biind = ["a"]
bind = "a"
backlog = 70000
timeout = 5
[tcp.limits]
rooms = 200
[tpc]
bind = ["a"]
bind2 = ["a"]
[auth]
token = 17
pasword = "huntertwo"
[labels]
zone = "ok"
bad = ["x",
 "y"]
`)
	cfg := defaults()
	cfg.TCP.Limits.Rooms = -1
	err := Load(&cfg, Options{
		File: file,
		Env:  []string{"PERSEID_TCP_BIIND=x", "PERSEID_DEBUG=maybe", "PERSEID_AUTH_TOKENS_=x", "PERSEID_ELSEWHERE=x"},
		Sets: []string{"tcp.limits.rooms=x", "tcp.timeuot=1s", "tcp=1", "name", "=x", "tcp.timeout=5h", "tcp.policy=both"},
	})
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %T %v", err, err)
	}
	want := `config: 22 problems
  x.toml:1: unknown key nmae; did you mean name?
  x.toml:3: unknown key tcp.biind; did you mean tcp.bind?
  x.toml:4: tcp.bind = "a": want a list of strings
  x.toml:5: tcp.backlog = 70000: want an integer from 0 to 65535
  x.toml:6: tcp.timeout = 5: want a duration with unit, such as "500ms", "1.5s" or "2m"
  x.toml:8: tcp.limits.rooms = 200: want an integer from -128 to 127
  x.toml:9: unknown key tpc; did you mean tcp?
  x.toml:13: auth.token = ***: want a string
  x.toml:14: unknown key auth.pasword
  x.toml:17: labels.bad = ["x", "y"]: want a string
  environment: unknown variable PERSEID_AUTH_TOKENS_; did you mean PERSEID_AUTH_TOKENS?
  environment PERSEID_DEBUG: debug = "maybe": want true or false
  environment: unknown variable PERSEID_ELSEWHERE
  environment: unknown variable PERSEID_TCP_BIIND; did you mean PERSEID_TCP_BIND?
  -set: tcp.limits.rooms = "x": want an integer from -128 to 127
  -set: unknown key tcp.timeuot; did you mean tcp.timeout?
  -set: tcp is a section; set one of its keys
  -set: name: want section.key=value
  -set: want section.key=value
  -set: tcp.timeout = "5h": 1s to 1m
  tcp.policy and limits.rooms exclude each other
  default: tcp.limits.rooms = -1: 0 or more`
	if got := e.Error(); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	if p := e.Problems[2]; p.Source != "x.toml:4" || p.Key != "tcp.bind" || p.Value != `"a"` {
		t.Fatalf("parts of the problem: %+v", p)
	}
}

func TestSemanticProblemNamesItsSource(t *testing.T) {
	file := writeTemp(t, "[tcp]\n\ntimeout = \"1ms\"\n")
	cfg := defaults()
	err := Load(&cfg, Options{File: file})
	if want := `x.toml:3: tcp.timeout = "1ms": 1s to 1m`; err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// A problem is one line, whatever the values and messages contain, and told once.
func TestProblemsAreOneLineEach(t *testing.T) {
	cfg := struct {
		Outer nosy `toml:"outer"`
	}{}
	cfg.Outer.Inner.A = "x\ny"
	err := Load(&cfg, Options{Sets: []string{"a\nb=1"}})
	want := `config: 2 problems
  -set: unknown key a\nb
  default: outer.inner.a = "x\ny": not\nallowed`
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
}

// nosy checks its nested section itself, as the loader does.
type nosy struct {
	Inner inner `toml:"inner"`
}

func (n *nosy) Problems() []string {
	var p []string
	for _, line := range n.Inner.Problems() {
		p = append(p, "inner."+line)
	}
	return p
}

type inner struct {
	A string `toml:"a"`
}

func (i *inner) Problems() []string { return []string{fmt.Sprintf("a = %q: not\nallowed", i.A)} }

func TestSuggestionForKeyInWrongSection(t *testing.T) {
	cfg := defaults()
	err := Load(&cfg, Options{Sets: []string{"bind=a:1", "tcp.rooms=1"}})
	for _, want := range []string{"unknown key bind; did you mean tcp.bind?", "unknown key tcp.rooms; did you mean tcp.limits.rooms?"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestExemptVariables(t *testing.T) {
	cfg := defaults()
	err := Load(&cfg, Options{Env: []string{"PERSEID_TEST_REDIS=x", "PERSEID_CACHE=/c", "PERSEID_FAIL=1", "OTHER=1", "PERSEID"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"PERSEID_CACHES=x", "PERSEID_FAILURE=1", "PERSEID_TES=1", "PERSEID_=1"} {
		if Load(&cfg, Options{Env: []string{v}}) == nil {
			t.Errorf("%s was accepted", v)
		}
	}
}

// Symptom: a daemon does not start in a pod as soon as the namespace has a
// Service named perseid. Cause: Kubernetes injects PERSEID_SERVICE_HOST and
// others, which no key matches.
func TestKubernetesServiceLinksAreNoSettings(t *testing.T) {
	cfg := defaults()
	err := Load(&cfg, Options{Env: []string{
		"PERSEID_SERVICE_HOST=10.0.0.1", "PERSEID_SERVICE_PORT=3101", "PERSEID_SERVICE_PORT_HTTP=3111",
		"PERSEID_PORT=tcp://10.0.0.1:3101", "PERSEID_PORT_3101_TCP=tcp://10.0.0.1:3101", "PERSEID_PORT_3101_TCP_ADDR=10.0.0.1",
		"PERSEID_COMET_PORT=tcp://10.0.0.1:3101", "PERSEID_COMET_PORT_3101_TCP_PROTO=tcp", "PERSEID_COMET_SERVICE_PORT_GRPC=1",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if Load(&cfg, Options{Env: []string{"PERSEID_COMET_PORT=3101"}}) == nil {
		t.Error("PERSEID_COMET_PORT=3101 is no service link and was accepted")
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	cfg := defaults()
	name := filepath.Join(t.TempDir(), "none.toml")
	err := Load(&cfg, Options{File: name, Sets: []string{"nope=1"}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want fs.ErrNotExist", err)
	}
	if !strings.Contains(err.Error(), "cannot read the file: no such file") || !strings.Contains(err.Error(), "unknown key nope") {
		t.Fatalf("got %v", err)
	}
	if err := Load(&cfg, Options{File: t.TempDir()}); err == nil {
		t.Error("a directory was accepted")
	}
	big := writeTemp(t, strings.Repeat("#\n", maxFileBytes))
	if err := Load(&cfg, Options{File: big}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestSyntaxErrorNamesTheLine(t *testing.T) {
	file := writeTemp(t, "name = \"a\"\n[tcp]\ntimeout = 5s\n")
	cfg := defaults()
	err := Load(&cfg, Options{File: file})
	if err == nil || !strings.Contains(err.Error(), "x.toml:3: ") || strings.Count(err.Error(), "\n") != 1 {
		t.Fatalf("got %v", err)
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		opts Options
	}{
		"syntax":          {file: "[auth]\ntoken = huntertwo\n"},
		"syntax, dotted":  {file: "auth.token = huntertwo\n"},
		"syntax, after":   {file: "[auth]\ntoken = 'x' huntertwo\n"},
		"syntax, in list": {file: "[auth]\ntokens = [\n 'a',\n huntertwo,\n]\n"},
		"wrong type":      {file: "[auth]\ntokens = 'huntertwo'\n"},
		"misspelled":      {file: "[auth]\ntokem = 'huntertwo'\n"},
		"misspelled env":  {opts: Options{Env: []string{"PERSEID_AUTH_TOKEM=huntertwo"}}},
		"misspelled set":  {opts: Options{Sets: []string{"auth.tokem=huntertwo"}}},
		"set without key": {opts: Options{Sets: []string{"huntertwo"}}},
		"validation":      {opts: Options{Sets: []string{"auth.token=weak: huntertwo"}}},
		"validation env":  {opts: Options{Env: []string{"PERSEID_AUTH_TOKEN=weak = huntertwo"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.file != "" {
				c.opts.File = writeTemp(t, c.file)
			}
			cfg := defaults()
			err := Load(&cfg, c.opts)
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), "huntertwo") {
				t.Fatalf("leaked: %v", err)
			}
		})
	}
}

func TestStructsThatAreNoConfiguration(t *testing.T) {
	for name, dst := range map[string]any{
		"no pointer": sample{},
		"nil":        (*sample)(nil),
		"untagged":   &struct{ A string }{},
		"bad name": &struct {
			A string `toml:"Aa"`
		}{},
		"unsupported": &struct {
			A chan int `toml:"a"`
		}{},
		"durations": &struct {
			A []time.Duration `toml:"a"`
		}{},
		"pointer": &struct {
			A *edge `toml:"a"`
		}{},
		"twice": &struct {
			A, B string `toml:"a"`
		}{},
		"same env": &struct {
			A struct {
				B string `toml:"b"`
			} `toml:"a"`
			C string `toml:"a_b"`
		}{},
		"large default": &struct {
			A uint64 `toml:"a"`
		}{A: 1 << 63},
	} {
		err := Load(dst, Options{})
		var e *Error
		if err == nil || errors.As(err, &e) {
			t.Errorf("%s: got %v, want a plain error", name, err)
		}
	}
}

func TestNumbersAtTheirBounds(t *testing.T) {
	type numbers struct {
		I   int     `toml:"i"`
		I8  int8    `toml:"i8"`
		U   uint64  `toml:"u"`
		U8  uint8   `toml:"u8"`
		F32 float32 `toml:"f32"`
	}
	ok := []string{"i=-9223372036854775808", "i8=-128", "i8=127", "u=9223372036854775807", "u8=255", "u8=0", "f32=3e38", "f32=7"}
	bad := []string{"i=9223372036854775808", "i=", "i=1.5", "i8=128", "i8=-129", "u=9223372036854775808", "u=-1", "u8=256", "f32=1e39", "f32=x"}
	for _, s := range ok {
		if err := Load(&numbers{}, Options{Sets: []string{s}}); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range bad {
		if err := Load(&numbers{}, Options{Sets: []string{s}}); err == nil {
			t.Errorf("%s was accepted", s)
		}
	}
}
