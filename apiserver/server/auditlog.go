package server

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// applyAudit builds the audit backends: the library's, but for a log of JSON that each request waits for, which is the default.
func (c *config) applyAudit() error {
	o, log := c.options.Audit, c.options.Audit.LogOptions
	if log.Path == "" || o.PolicyFile == "" || log.Format != auditlog.FormatJson || log.GroupVersionString != auditv1.SchemeGroupVersion.String() ||
		log.BatchOptions.Mode != genericoptions.ModeBlocking || log.TruncateOptions.Enabled {
		return o.ApplyTo(c.generic)
	}
	out, err := auditFile(log)
	if err != nil {
		return err
	}
	rest, others := *o, log
	others.Path = ""
	rest.LogOptions = others
	if err := rest.ApplyTo(c.generic); err != nil {
		return err
	}
	backend := audit.Backend(&auditLog{Backend: auditlog.NewBackend(out, log.Format, auditv1.SchemeGroupVersion), out: out})
	if c.generic.AuditBackend != nil {
		backend = audit.Union(backend, c.generic.AuditBackend)
	}
	c.generic.AuditBackend = backend
	return nil
}

// auditFile opens the log as the library does.
func auditFile(o genericoptions.AuditLogOptions) (io.Writer, error) {
	if o.Path == "-" {
		return os.Stdout, nil
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make the audit log's folder: %w", err)
	}
	file, err := os.OpenFile(o.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil || o.MaxSize == 0 {
		return file, err
	}
	return &lumberjack.Logger{Filename: o.Path, MaxAge: o.MaxAge, MaxBackups: o.MaxBackups, MaxSize: o.MaxSize, Compress: o.Compress}, file.Close()
}

// auditLog writes events as the library's backend does. Every request has one or two, most of them without the objects: those it writes
// itself, since the library's way, over a conversion and reflection, is a good part of what a small request costs.
type auditLog struct {
	audit.Backend
	out   io.Writer
	lines sync.Pool // of *[]byte
}

// ProcessEvents implements audit.Sink.
func (l *auditLog) ProcessEvents(events ...*auditapi.Event) bool {
	ok := true
	for _, event := range events {
		ok = l.write(event) && ok
	}
	return ok
}

func (l *auditLog) write(event *auditapi.Event) bool {
	if event.ImpersonatedUser != nil || event.AuthenticationMetadata != nil || event.RequestObject != nil || event.ResponseObject != nil {
		return l.Backend.ProcessEvents(event)
	}
	line, ok := l.lines.Get().(*[]byte)
	if !ok {
		line = new([]byte)
	}
	defer l.lines.Put(line)
	*line = appendEvent((*line)[:0], event)
	if _, err := l.out.Write(*line); err != nil {
		audit.HandlePluginError(auditlog.PluginName, err, event)
		return false
	}
	return true
}

// appendEvent appends the JSON line of an event without objects.
func appendEvent(b []byte, e *auditapi.Event) []byte {
	b = append(b, `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":`...)
	b = appendText(b, string(e.Level))
	b = appendText(append(b, `,"auditID":`...), string(e.AuditID))
	b = appendText(append(b, `,"stage":`...), string(e.Stage))
	b = appendText(append(b, `,"requestURI":`...), e.RequestURI)
	b = appendText(append(b, `,"verb":`...), e.Verb)
	b = append(b, `,"user":{`...)
	b = appendField(b, "username", e.User.Username)
	b = appendField(b, "uid", e.User.UID)
	b = appendList(b, "groups", e.User.Groups)
	if len(e.User.Extra) > 0 {
		b = append(appendKey(b, "extra"), '{')
		for _, key := range slices.Sorted(maps.Keys(e.User.Extra)) {
			if values := e.User.Extra[key]; len(values) > 0 {
				b = appendList(b, key, values)
			} else if b = appendKey(b, key); values == nil {
				b = append(b, "null"...)
			} else {
				b = append(b, "[]"...)
			}
		}
		b = append(b, '}')
	}
	b = append(b, '}')
	b = appendList(b, "sourceIPs", e.SourceIPs)
	b = appendField(b, "userAgent", e.UserAgent)
	if r := e.ObjectRef; r != nil {
		b = append(b, `,"objectRef":{`...)
		for _, field := range [][2]string{
			{"resource", r.Resource},
			{"namespace", r.Namespace},
			{"name", r.Name},
			{"uid", string(r.UID)},
			{"apiGroup", r.APIGroup},
			{"apiVersion", r.APIVersion},
			{"resourceVersion", r.ResourceVersion},
			{"subresource", r.Subresource},
		} {
			b = appendField(b, field[0], field[1])
		}
		b = append(b, '}')
	}
	if e.ResponseStatus != nil {
		b = appendStatus(append(b, `,"responseStatus":`...), e.ResponseStatus)
	}
	b = appendTime(append(b, `,"requestReceivedTimestamp":`...), e.RequestReceivedTimestamp)
	b = appendTime(append(b, `,"stageTimestamp":`...), e.StageTimestamp)
	if len(e.Annotations) > 0 {
		b = append(b, `,"annotations":{`...)
		for _, key := range slices.Sorted(maps.Keys(e.Annotations)) {
			b = appendText(appendKey(b, key), e.Annotations[key])
		}
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}

// appendStatus has a short way for what almost every response is.
func appendStatus(b []byte, status *metav1.Status) []byte {
	if code := status.Code; code != 0 && *status == (metav1.Status{Code: code}) {
		return append(strconv.AppendInt(append(b, `{"metadata":{},"code":`...), int64(code), 10), '}')
	}
	return appendJSON(b, status)
}

func appendTime(b []byte, at metav1.MicroTime) []byte {
	if at.IsZero() {
		return append(b, "null"...)
	}
	return append(at.UTC().AppendFormat(append(b, '"'), metav1.RFC3339Micro), '"')
}

// appendField appends a field that is left out when it is empty.
func appendField(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return appendText(appendKey(b, key), value)
}

func appendList(b []byte, key string, values []string) []byte {
	if len(values) == 0 {
		return b
	}
	b = append(appendKey(b, key), '[')
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, value)
	}
	return append(b, ']')
}

// appendKey appends a key, with a comma if it is not the first of its object.
func appendKey(b []byte, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(appendText(b, key), ':')
}

// appendText quotes a text. Almost none has anything to escape.
func appendText(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return appendJSON(b, text)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

func appendJSON(b []byte, v any) []byte {
	text, _ := json.Marshal(v) // neither texts nor statuses can fail
	return append(b, text...)
}
