package logs

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const sample = `2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02.5Z stderr F two
torn
2026-01-01T00:00:03.5Z stdout P thr
2026-01-01T00:00:03.6Z stdout F ee
2026-01-01T00:00:04.5Z stdout F 
`

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	all := Options{Tail: -1, LimitBytes: -1}
	with := func(change func(*Options)) Options {
		o := all
		change(&o)
		return o
	}
	type out struct{ Stdout, Stderr string }
	for name, tc := range map[string]struct {
		options Options
		want    out
	}{
		"all":        {all, out{"one\nthree\n\n", "two\n"}},
		"tail":       {with(func(o *Options) { o.Tail = 2 }), out{"ee\n\n", ""}},
		"tail none":  {with(func(o *Options) { o.Tail = 0 }), out{}},
		"tail more":  {with(func(o *Options) { o.Tail = 100 }), out{"one\nthree\n\n", "two\n"}},
		"limit":      {with(func(o *Options) { o.LimitBytes = 9 }), out{"one\nt", "two\n"}},
		"since":      {with(func(o *Options) { o.Since = time.Date(2026, 1, 1, 0, 0, 4, 0, time.UTC) }), out{"\n", ""}},
		"timestamps": {with(func(o *Options) { o.Timestamps = true; o.Tail = 4 }), out{"2026-01-01T00:00:03.500000000Z three\n2026-01-01T00:00:04.500000000Z \n", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if err := Read(t.Context(), path, tc.options, &stdout, &stderr); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out{stdout.String(), stderr.String()}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func line(text string) string { return "2026-01-01T00:00:01Z stdout F " + text + "\n" }

// TestFollowAcrossRotation writes while a reader follows, moves the file away as a rotation does, and ends the container.
func TestFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	write := func(f *os.File, s string) {
		if _, err := io.WriteString(f, s); err != nil {
			t.Fatal(err)
		}
	}
	f := open()
	write(f, line("a"))
	var running atomic.Bool
	running.Store(true)
	out := &safeBuffer{}
	done := make(chan error, 1)
	go func() {
		o := Options{Follow: true, Tail: -1, LimitBytes: -1, Running: func(context.Context) (bool, error) { return running.Load(), nil }}
		done <- Read(t.Context(), path, o, out, nil)
	}()
	waitFor := func(want string) {
		t.Helper()
		for deadline := time.After(5 * time.Second); out.String() != want; {
			select {
			case <-deadline:
				t.Fatalf("have %q, want %q", out.String(), want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	waitFor("a\n")
	write(f, strings.TrimSuffix(line("bc"), "c\n"))
	write(f, "c\n")
	waitFor("a\nbc\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(f, line("late"))
	write(open(), line("new"))
	waitFor("a\nbc\nlate\nnew\n")
	running.Store(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCleanOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	for _, name := range []string{".20260101-000001.gz", ".20260101-000002.gz", ".20260101-000003.gz", ".20260101-000004", ".20260101-000004.tmp"} {
		if err := os.WriteFile(path+name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := NewRotator(RotateConfig{MaxFiles: 4}).cleanOld(path); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"0.log.20260101-000003.gz", "0.log.20260101-000004.gz"}, names); diff != "" {
		t.Error(diff)
	}
}
