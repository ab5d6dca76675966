package scenario

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fetch gets a page of an admin listener.
func (b *bench) fetch(ctx context.Context, url string, within time.Duration, use func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("bench: %s: %w", url, err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("bench: %s: %w", url, err)
	}
	err = use(resp)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return err
}

// profile writes a CPU profile of an admin listener's process to -profile. It
// takes as long as a step.
func (b *bench) profile(ctx context.Context, step, name, addr string) error {
	seconds := max(1, int(b.opt.duration.Seconds()))
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, seconds)
	file := strings.NewReplacer(" ", "_", "/", "_", ",", "").Replace(step) + "-" + name + ".pprof"
	return b.fetch(ctx, url, time.Duration(seconds)*time.Second+time.Minute, func(r *http.Response) error {
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("bench: profile of %s: %s", name, r.Status)
		}
		f, err := os.Create(filepath.Join(b.opt.profiles, file))
		if err != nil {
			return fmt.Errorf("bench: profile: %w", err)
		}
		_, err = io.Copy(f, r.Body)
		if err2 := f.Close(); err == nil {
			err = err2
		}
		return err
	})
}
