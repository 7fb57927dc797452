package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"keelson.dev/lab/snapshot"
)

// schedule is when a server saves its database and keys by itself, and how many of those snapshots stay.
type schedule struct {
	interval    time.Duration // 0: never
	keep        int
	dir         string
	dataDir     string
	pkiDir      string
	clusterName string
	clock       clock.Clock
}

func (s *schedule) addFlags(flags *pflag.FlagSet) {
	flags.DurationVar(&s.interval, "snapshot-interval", 0, "how often the database and the keys are saved into snapshots below --data-dir; 0: never")
	flags.IntVar(&s.keep, "snapshot-keep", 5, "how many of these snapshots are kept")
}

// run saves until ctx ends. What cannot be saved is told and tried again after a tenth of the interval.
func (s *schedule) run(ctx context.Context) error {
	if s.interval <= 0 {
		return nil
	}
	log := klog.FromContext(ctx)
	for {
		files, err := s.files()
		if err != nil {
			return err
		}
		wait := time.Duration(0)
		if len(files) > 0 {
			if info, err := os.Stat(files[len(files)-1]); err == nil {
				wait = s.interval - s.clock.Since(info.ModTime())
			}
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.clock.After(wait):
			}
			if err = s.save(ctx); err == nil {
				break
			}
			log.Error(err, "Snapshot")
			wait = s.interval / 10
		}
	}
}

// files are the snapshots that have been saved, the oldest first.
func (s *schedule) files() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*"+snapshot.Suffix))
	slices.Sort(files)
	return files, err
}

func (s *schedule) save(ctx context.Context) error {
	client, end, err := snapshot.Dial(s.dataDir)
	if err != nil {
		return err
	}
	defer end()
	for _, pattern := range []string{".*.db-*", "*.part"} { // of a process that was killed
		left, _ := filepath.Glob(filepath.Join(s.dir, pattern))
		for _, file := range left {
			_ = os.Remove(file)
		}
	}
	now := s.clock.Now()
	file := filepath.Join(s.dir, snapshot.Name(s.clusterName, now))
	db, err := snapshot.FetchDatabase(ctx, client, file)
	if err != nil {
		return err
	}
	defer os.Remove(db)
	manifest := snapshot.Manifest{Taken: now.UTC(), Cluster: s.clusterName, Version: version.Get().GitVersion}
	if err := snapshot.Save(file, manifest, db, []snapshot.Tree{snapshot.PKI(s.pkiDir)}); err != nil {
		return err
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	for _, old := range files[:max(0, len(files)-max(1, s.keep))] {
		err = errors.Join(err, os.Remove(old))
	}
	if err != nil {
		return fmt.Errorf("remove old snapshots: %w", err)
	}
	return nil
}
