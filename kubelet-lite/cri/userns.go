package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rangeSize is how many IDs a user namespace gets. The first range is the host's own.
const rangeSize = 1 << 16

// UserNamespaceRanges hands out ranges of host IDs. What a pod got is kept in a file of its directory, so that it survives a restart.
type UserNamespaceRanges struct {
	dir   string // <root>/pods
	limit int64

	mu    sync.Mutex
	pods  map[types.UID]uint32
	taken map[uint32]bool
	read  bool
}

// NewUserNamespaces manages the ranges of at most limit pods at a time.
func NewUserNamespaces(rootDir string, limit int64) *UserNamespaceRanges {
	return &UserNamespaceRanges{dir: filepath.Join(rootDir, "pods"), limit: limit, pods: map[types.UID]uint32{}, taken: map[uint32]bool{}}
}

type usernsFile struct {
	UIDMappings []usernsMapping `json:"uidMappings"`
	GIDMappings []usernsMapping `json:"gidMappings"`
}

type usernsMapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

// Mapping returns the pod's range, allocating it the first time.
func (u *UserNamespaceRanges) Mapping(uid types.UID) (*runtimeapi.IDMapping, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.restore(); err != nil {
		return nil, err
	}
	first, ok := u.pods[uid]
	if !ok {
		var err error
		if first, err = u.allocate(uid); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.IDMapping{HostId: first, ContainerId: 0, Length: rangeSize}, nil
}

func (u *UserNamespaceRanges) allocate(uid types.UID) (uint32, error) {
	for i := uint32(1); int64(i) <= u.limit; i++ {
		first := i * rangeSize
		if u.taken[first] {
			continue
		}
		m := []usernsMapping{{HostID: first, Length: rangeSize}}
		data, err := json.Marshal(usernsFile{UIDMappings: m, GIDMappings: m})
		if err != nil {
			return 0, fmt.Errorf("encode user namespace: %w", err)
		}
		if err := os.MkdirAll(filepath.Join(u.dir, string(uid)), 0o750); err != nil {
			return 0, fmt.Errorf("record user namespace: %w", err)
		}
		if err := os.WriteFile(u.file(uid), data, 0o644); err != nil {
			return 0, fmt.Errorf("record user namespace: %w", err)
		}
		u.pods[uid], u.taken[first] = first, true
		return first, nil
	}
	return 0, errors.New("no range of user IDs is left on this node")
}

func (u *UserNamespaceRanges) file(uid types.UID) string {
	return filepath.Join(u.dir, string(uid), "userns")
}

// restore reads, once, what earlier agents handed out.
func (u *UserNamespaceRanges) restore() error {
	if u.read {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(u.dir, "*", "userns"))
	if err != nil {
		return fmt.Errorf("read user namespaces: %w", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read user namespaces: %w", err)
		}
		var file usernsFile
		if err := json.Unmarshal(data, &file); err != nil || len(file.UIDMappings) == 0 {
			continue // half written: its pod has not been started with it
		}
		uid, first := types.UID(filepath.Base(filepath.Dir(path))), file.UIDMappings[0].HostID
		u.pods[uid], u.taken[first] = first, true
	}
	u.read = true
	return nil
}

// Release gives a pod's range back.
func (u *UserNamespaceRanges) Release(uid types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if first, ok := u.pods[uid]; ok {
		delete(u.taken, first)
		delete(u.pods, uid)
	}
}
