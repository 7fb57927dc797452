package kubeletclient

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestTimeout connects to a kubelet whose machine does not answer.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := Config{Timeout: 5 * time.Second, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		start := time.Now()
		_, err := config.dialer()(t.Context(), "tcp", "192.0.2.1:10250")
		if waited := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || waited != 5*time.Second {
			t.Errorf("%v after %v", err, waited)
		}
	})
}
