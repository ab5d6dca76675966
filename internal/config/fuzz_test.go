package config

import (
	"reflect"
	"strings"
	"testing"
)

// No file may bring the loader down; what it accepts must survive being
// documented and loaded again; what it refuses must be one line per problem.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(Document(defaults())))
	f.Add([]byte("[tcp]\nbind = ['a']\nlimits = { rooms = 1 }\n"))
	f.Add([]byte("tcp.limits.rooms = 1\n[[tcp]]\n"))
	f.Add([]byte("tcp = [[1, {}], 1979-05-27]\nregions = {a = ['x'], b = 1}\n"))
	f.Add([]byte("name = \"\\u0000\"\nauth.token = hunter2\n"))
	f.Add([]byte("\xef\xbb\xbfname = '''\n\xff'''\n"))
	f.Add([]byte("[regions]\n\"\" = []\n\"a.b\" = [\"\\n\"]\n[labels]\n[\"\\n\"]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got sample
		tr, err := plant(&got)
		if err != nil {
			t.Fatal(err)
		}
		problems := append(tr.applyFile("x.toml", data), tr.validate()...)
		for _, p := range problems {
			if strings.ContainsAny(p.String(), "\n\r") {
				t.Fatalf("problem on several lines: %q", p.String())
			}
		}
		if len(problems) > 0 {
			return
		}
		text := Document(got)
		var again sample
		if problems := applyText(t, &again, text); len(problems) > 0 {
			t.Fatalf("document refused: %v\n%s", problems, text)
		}
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("got  %#v\nback %#v\n%s", got, again, text)
		}
	})
}
