package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

type progress struct {
	State    string
	Started  int64 `json:"started_ms"`
	Canceled int64 `json:"canceled_ms"`
	Comets   int
	Total    int64 `json:"sessions_total"`
	Done     int64 `json:"sessions_done"`
	Outcomes struct{ Delivered, Filtered, Slow, Canceled int64 }
}

// request asks for what may be asked twice. It does so while a pause of the
// machine costs the connection or the time for an answer.
func request(t *testing.T, method, url string) (int, string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		status, answer, err := requestOnce(t, method, url)
		if (err != nil || status == http.StatusServiceUnavailable) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return status, answer
	}
}

func requestOnce(t *testing.T, method, url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// waitProgress asks until the answer is as it shall be.
func waitProgress(t *testing.T, url, what string, ok func(progress) bool) (p progress, answer string) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, answer := request(t, http.MethodGet, url)
		p := progress{}
		if err := json.Unmarshal([]byte(answer), &p); err != nil || status != 200 {
			t.Fatalf("%s: %d %s", url, status, answer)
		}
		if ok(p) {
			return p, answer
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s: %s", what, answer)
		}
	}
}

// A push to all at a speed grows, is canceled through the API, and ends: the
// rest of the clients get nothing of it, its record is committed, and the next
// push reaches everybody.
func TestPushToAllIsFollowedAndCanceled(t *testing.T) {
	const clients, speed = 200, 2 // would take 100 s: the machine may pause before the cancel
	addrs := startAllInOne(t)
	base := "http://" + addrs["http"]
	conns := make([]*goimClient, clients)
	for i := range conns {
		conns[i] = dialGoim(t, addrs["tcp"], fmt.Sprintf(`{"mid":%d,"key":"k%d","room_id":"live://1","platform":"ios","accepts":[1000]}`, i+1, i))
	}
	status, answer := post(t, base+"/v1/push", fmt.Sprintf(`{"op":1000,"body":"paced","targets":[{"all":true,"speed":%d}]}`, speed))
	var pushed struct {
		MsgID string `json:"msg_id"`
	}
	if err := json.Unmarshal([]byte(answer), &pushed); err != nil || status != 202 {
		t.Fatalf("push: %d %s", status, answer)
	}
	one := base + "/v1/push/all/" + pushed.MsgID
	first, _ := waitProgress(t, one, "the first sessions", func(p progress) bool { return p.Done > 0 })
	waitProgress(t, one, "more of them", func(p progress) bool { return p.Done > first.Done && p.State == "running" })
	if status, answer := request(t, http.MethodGet, base+"/v1/push/all"); status != 200 || !strings.Contains(answer, pushed.MsgID) {
		t.Errorf("the list: %d %s", status, answer)
	}

	status, answer = request(t, http.MethodDelete, one)
	if status != 200 || !strings.Contains(answer, `"state":"canceled"`) {
		t.Fatalf("cancel: %d %s", status, answer)
	}
	last, ended := waitProgress(t, one, "its end", func(p progress) bool {
		_, list := request(t, http.MethodGet, base+"/v1/push/all")
		return p.Outcomes.Canceled > 0 && list == `{"pushes":[]}`
	})
	if last.State != "canceled" || last.Comets != 1 || last.Total != clients || last.Done+last.Outcomes.Canceled != clients || last.Done != last.Outcomes.Delivered {
		t.Errorf("at the end: %s", ended)
	}
	for _, method := range []string{http.MethodDelete, http.MethodGet} {
		if status, again := request(t, method, one); status != 200 || again != ended {
			t.Errorf("%s once more: %d %s\nwant %s", method, status, again, ended)
		}
	}

	if status, answer := post(t, base+"/goim/push/all?operation=1000", "after"); status != 200 {
		t.Fatalf("the next: %d %s", status, answer)
	}
	got := int64(0)
	for i, c := range conns {
		p := c.next()
		if string(p.Body) == "paced" {
			got++
			p = c.next()
		}
		if string(p.Body) != "after" {
			t.Fatalf("client %d got %q", i, p.Body)
		}
	}
	if got != last.Outcomes.Delivered {
		t.Errorf("%d clients got it, the API says %d", got, last.Outcomes.Delivered)
	}

	deadline := time.After(60 * time.Second)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for committed := false; !committed; {
		_, metrics := request(t, http.MethodGet, "http://"+addrs["admin"]+"/metrics")
		committed = strings.Contains(metrics, "perseid_lag_records{")
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "perseid_lag_records{") && !strings.HasSuffix(line, " 0\n") {
				committed = false
			}
		}
		select {
		case <-deadline:
			t.Fatalf("the offsets stand still:\n%s", metrics)
		case <-again.C:
		}
	}
}
