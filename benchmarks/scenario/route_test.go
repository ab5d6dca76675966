package scenario

import (
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/internal/testdeps"
)

func TestQuickAckOfARoute(t *testing.T) {
	t.Parallel()
	ip, err := exec.LookPath("ip")
	if err != nil {
		testdeps.Skip(t, "ip of iproute2 is not installed")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		testdeps.Skip(t, "no network namespace of its own: "+err.Error())
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"route", "add", "table", "local", "local", "127.0.1.1", "dev", "lo", "src", "127.0.0.1", "quickack", "1"},
		{"route", "add", "table", "local", "local", "127.0.2.0/24", "dev", "lo", "mtu", "9000", "quickack", "1"},
		{"route", "add", "table", "local", "local", "127.0.2.9", "dev", "lo"},
	} {
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	for address, want := range map[string]bool{
		"127.0.0.1": false, "127.0.1.1": true, "127.0.1.2": false,
		"127.0.2.8": true, "127.0.2.9": false, // the longest prefix counts
		"::1": false, "localhost": false, "192.0.2.1": false,
	} {
		if got := quickAck(address); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
}
