package archtest

import (
	"os"
	"testing"
)

// TestTheHouse applies every rule to this module.
func TestTheHouse(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Packages) < 20 || tree.Module != "github.com/perseid-im/perseid" {
		t.Fatalf("module %q with %d packages: this is not the whole tree", tree.Module, len(tree.Packages))
	}
	needed := map[Exception]bool{}
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			broken := false
			for _, finding := range rule.Check(tree) {
				if e, ok := excepted(rule, finding); ok {
					needed[e] = true
					continue
				}
				broken = true
				t.Error(finding)
			}
			if broken {
				t.Errorf("the rule: %s", rule.Reason)
			}
		})
	}
	for _, e := range Exceptions() {
		if !needed[e] {
			t.Errorf("the exception %s %s is not needed: remove it", e.Rule, e.Key)
		}
	}
}

func excepted(rule Rule, finding Finding) (Exception, bool) {
	for _, e := range Exceptions() {
		if e.Rule == rule.Name && e.Key == finding.Key && e.Reason != "" {
			return e, true
		}
	}
	return Exception{}, false
}
