package podworker

import (
	"bytes"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/kubelet-lite/cri"
)

const (
	maxMessage      = 4096 // bytes of a termination message
	maxLogMessage   = 2048 // bytes of a log that stands in for one
	maxLogLines     = 80
	logLineOverhead = 64 // a CRI log line's time, stream and tag, roughly: what to read more than what is kept
)

// terminationMessage reads what a dead container left at its termination message path, or the end of its log if it asked for that.
func terminationMessage(c *cri.Container) string {
	for _, m := range c.Mounts {
		if m.ContainerPath != c.MessagePath || c.MessagePath == "" {
			continue
		}
		if text := readTail(m.HostPath, maxMessage); text != "" {
			return text
		}
	}
	if c.MessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && c.ExitCode != 0 {
		return logTail(c.LogPath)
	}
	return ""
}

// readTail returns the last n bytes of a file; a file that cannot be read is as good as empty.
func readTail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return ""
	}
	return string(data)
}

// logTail returns the last lines of a CRI log without their prefixes.
func logTail(path string) string {
	raw := readTail(path, maxLogMessage+maxLogLines*logLineOverhead)
	lines := strings.SplitAfter(raw, "\n")
	if len(lines) > maxLogLines+1 {
		lines = lines[len(lines)-maxLogLines-1:]
	}
	var out bytes.Buffer
	for _, line := range lines {
		// <time> <stream> <F or P> <text>
		parts := strings.SplitN(line, " ", 4)
		if len(parts) < 4 {
			continue
		}
		text := parts[3]
		if parts[2] == "P" {
			text = strings.TrimSuffix(text, "\n")
		}
		out.WriteString(text)
	}
	text := out.String()
	return text[max(0, len(text)-maxLogMessage):]
}
