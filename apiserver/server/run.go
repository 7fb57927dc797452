package server

import (
	"context"
	"errors"
	"strings"
)

var errMissing = errors.New("no network given")

func orMissing(err error) error {
	if err == nil {
		return errMissing
	}
	return err
}

func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// Run starts the server and returns when ctx is done and everything has drained, or when it cannot go on.
func Run(ctx context.Context, o *Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	return errors.New("not assembled yet")
}
