// Package logs reads container logs in the format that CRI runtimes write, follows them across rotation, and rotates them.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options are those of a log request.
type Options struct {
	Follow     bool
	Timestamps bool
	Since      time.Time // zero: from the start
	Tail       int64     // lines; < 0: all
	LimitBytes int64     // < 0: no limit
	// Running says whether the container may still write. It is asked when a followed log has been silent for a while; nil
	// means that it never ends.
	Running func(context.Context) (bool, error)
}

// silence is after how long without a write a follower asks whether the container still runs: its end writes nothing.
const silence = time.Second

// Read writes the log at path to stdout and stderr; a nil writer leaves a stream out. With Follow it returns once the container
// has ended and everything has been read, or when ctx ends.
func Read(ctx context.Context, path string, o Options, stdout, stderr io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = f.Close() }() // f is another file after a rotation
	if o.Tail >= 0 {
		offset, err := tailOffset(f, o.Tail)
		if err != nil {
			return fmt.Errorf("find last lines: %w", err)
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return fmt.Errorf("seek log: %w", err)
		}
	}
	w := &writer{stdout: stdout, stderr: stderr, options: o, left: o.LimitBytes, fresh: true}
	if !o.Follow {
		_, err := copyLines(ctx, &lineReader{r: bufio.NewReader(f)}, w)
		return err
	}
	watch, err := newFollower(path)
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }()
	return follow(ctx, path, &f, watch, w)
}

// follow alternates between reading what there is and waiting for more. The order matters: whether the container has ended is
// asked before the last read, so that nothing written in between is missed.
func follow(ctx context.Context, path string, f **os.File, watch *follower, w *writer) error {
	lines := &lineReader{r: bufio.NewReader(*f)}
	ended := false
	for {
		if done, err := copyLines(ctx, lines, w); done || err != nil {
			return err
		}
		old := *f
		rotated, err := reopen(path, f)
		switch {
		case err != nil:
			return err
		case rotated:
			// The old file got its last lines before the runtime opened the new one, but perhaps after we read it.
			done, err := copyLines(ctx, lines, w)
			_ = old.Close()
			if done || err != nil {
				return err
			}
			lines = &lineReader{r: bufio.NewReader(*f)}
			continue
		case ended:
			return nil
		}
		quiet, err := watch.wait(ctx)
		if err != nil {
			return ignoreCanceled(err)
		}
		if quiet && w.options.Running != nil {
			running, err := w.options.Running(ctx)
			if err != nil {
				return ignoreCanceled(fmt.Errorf("ask for the container's state: %w", err))
			}
			ended = !running
		}
	}
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// reopen replaces *f if another file has taken its place. The old one stays open, to be drained.
func reopen(path string, f **os.File) (bool, error) {
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) { // between the rename and the runtime's reopening
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, err := (*f).Stat()
	if err != nil || os.SameFile(now, old) {
		return false, err
	}
	next, err := os.Open(path)
	if err != nil {
		return false, err
	}
	*f = next
	return true, nil
}

// lineReader keeps an unfinished line until the rest has been written.
type lineReader struct {
	r    *bufio.Reader
	part []byte
}

func (l *lineReader) next() ([]byte, error) {
	chunk, err := l.r.ReadBytes('\n')
	if err != nil {
		l.part = append(l.part, chunk...)
		return nil, err
	}
	if len(l.part) > 0 {
		chunk = append(l.part, chunk...)
		l.part = nil
	}
	return chunk, nil
}

func copyLines(ctx context.Context, lines *lineReader, w *writer) (done bool, _ error) {
	for {
		if ctx.Err() != nil {
			return true, nil //nolint:nilerr // the client has gone: there is nobody to tell
		}
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read log: %w", err)
		}
		if done, err := w.write(line); done || err != nil {
			return true, err
		}
	}
}

// entry is one line of a CRI log: 2016-10-06T00:17:09.669794202Z stdout P content, where P marks a part of a longer line.
type entry struct {
	time    time.Time
	stderr  bool
	partial bool
	content []byte
}

func parse(line []byte) (entry, error) {
	fields := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
	if len(fields) < 3 {
		return entry{}, fmt.Errorf("log line has %d fields", len(fields))
	}
	at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
	if err != nil {
		return entry{}, fmt.Errorf("time of log line: %w", err)
	}
	e := entry{time: at, stderr: string(fields[1]) == "stderr"}
	first, _, _ := bytes.Cut(fields[2], []byte(":"))
	e.partial = string(first) == "P"
	if len(fields) == 4 {
		e.content = fields[3]
	}
	if !e.partial {
		e.content = append(slices.Clip(e.content), '\n')
	}
	return e, nil
}

const timestampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// writer applies what is left of the options to each line.
type writer struct {
	stdout, stderr io.Writer
	options        Options
	left           int64 // < 0: no limit
	fresh          bool  // at the beginning of a line
}

func (w *writer) write(line []byte) (done bool, _ error) {
	e, err := parse(line)
	if err != nil { // a torn line, for example after the disk was full: the rest of the log is still worth reading
		return false, nil //nolint:nilerr // see above
	}
	out := w.stdout
	if e.stderr {
		out = w.stderr
	}
	if out == nil || e.time.Before(w.options.Since) {
		return false, nil
	}
	content := e.content
	if w.options.Timestamps && w.fresh {
		content = append([]byte(e.time.Format(timestampFormat)+" "), content...)
	}
	w.fresh = !e.partial
	if w.left >= 0 && int64(len(content)) >= w.left {
		content, done = content[:w.left], true
	}
	if w.left >= 0 {
		w.left -= int64(len(content))
	}
	_, err = out.Write(content)
	return done, err
}

// tailOffset is where the last n lines begin. A line that is still being written counts.
func tailOffset(f io.ReaderAt, n int64) (int64, error) {
	size, err := f.(io.Seeker).Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, err
	}
	buf := make([]byte, 16<<10)
	for end, seen := size, int64(0); end > 0; {
		start := max(end-int64(len(buf)), 0)
		chunk := buf[:end-start]
		if _, err := f.ReadAt(chunk, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i, c := range slices.Backward(chunk) {
			if c != '\n' || start+int64(i) == size-1 {
				continue
			}
			if seen++; seen == n {
				return start + int64(i) + 1, nil
			}
		}
		end = start
	}
	return 0, nil
}

// follower waits for writes to one file. It watches the directory, since a rotation replaces the file.
type follower struct {
	*fsnotify.Watcher
	path string
}

func newFollower(path string) (*follower, error) {
	// The log may be a link (/var/log/containers); writes show in the directory of what it points to.
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("resolve log path: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch log: %w", err)
	}
	if err := w.Add(filepath.Dir(real)); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watch log: %w", err)
	}
	return &follower{w, real}, nil
}

// wait returns when the file was written to or replaced, or with quiet after a silence.
func (f *follower) wait(ctx context.Context) (quiet bool, _ error) {
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case err := <-f.Errors:
			return false, fmt.Errorf("watch log: %w", err)
		case event := <-f.Events:
			if event.Name == f.path && event.Op&(fsnotify.Write|fsnotify.Create|fsnotify.Rename|fsnotify.Remove) != 0 {
				return false, nil
			}
		case <-timer.C:
			return true, nil
		}
	}
}
