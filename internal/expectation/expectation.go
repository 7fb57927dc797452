// Package expectation keeps a controller from acting on a cache that does not show the controller's own writes yet. A controller
// that counts pods would otherwise create them twice.
//
// It compares resource versions instead of counting events: a write answers with the version that it made, and the store of an
// informer knows how far it has come. A deletion answers with none, so the deleted object itself is looked up. A call that fails may
// have been carried out all the same: then only a look at the API server tells.
package expectation

import (
	"errors"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Retry bounds the wait of a controller for its own writes to appear in the cache. Their event wakes it much earlier; only an object that came
// and went between two relists of the cache never sends one.
const Retry = time.Second

// View is the part of an informer's store that tells how far it has come.
type View interface {
	LastStoreSyncResourceVersion() string
	GetByKey(key string) (item any, exists bool, err error)
}

// Tracker remembers the writes of each owner until the view shows them. It is safe for concurrent use.
type Tracker struct {
	view  View
	mu    sync.Mutex
	owner map[types.UID]*pending
}

type pending struct {
	version string
	deleted map[types.UID]string // uid → key in the view
	unsure  bool                 // a write failed in a way that leaves open whether it was carried out
}

// New returns a tracker of writes to the kind that view shows.
func New(view View) *Tracker {
	return &Tracker{view: view, owner: map[types.UID]*pending{}}
}

// Wrote records that a create or update for owner was answered with obj.
func (t *Tracker) Wrote(owner types.UID, obj metav1.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pendingOf(owner)
	if newer(obj.GetResourceVersion(), p.version) {
		p.version = obj.GetResourceVersion()
	}
}

// Deleted records that obj was deleted for owner. It counts as seen when the view shows it gone, replaced or terminating.
func (t *Tracker) Deleted(owner types.UID, obj metav1.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pendingOf(owner).deleted[obj.GetUID()] = keyOf(obj)
}

func keyOf(obj metav1.Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}

// Failed records that a write for owner failed. If it may have been carried out, the owner is unsure from now on, and the answer true.
func (t *Tracker) Failed(owner types.UID, err error) bool {
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError {
		return false // the API server has refused it
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pendingOf(owner).unsure = true
	return true
}

// Unsure reports whether owner has to be looked up with the API server before anything is decided: see Found.
func (t *Tracker) Unsure(owner types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.owner[owner] != nil && t.owner[owner].unsure
}

// Found tells what the API server has of owner's objects, all of them. Writes that are among them and that the view does not show are
// pending; deletions that are not are forgotten.
func (t *Tracker) Found(owner types.UID, live []metav1.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pendingOf(owner)
	p.unsure = false
	for _, obj := range live {
		if obj.GetDeletionTimestamp() == nil {
			delete(p.deleted, obj.GetUID())
		}
		item, exists, err := t.view.GetByKey(keyOf(obj))
		shown, ok := item.(metav1.Object)
		current := err == nil && exists && ok && shown.GetUID() == obj.GetUID() && !newer(obj.GetResourceVersion(), shown.GetResourceVersion())
		if !current && newer(obj.GetResourceVersion(), p.version) {
			p.version = obj.GetResourceVersion()
		}
	}
}

// Satisfied reports whether the view shows all recorded writes of owner, and forgets those that it shows.
func (t *Tracker) Satisfied(owner types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.owner[owner]
	if p == nil {
		return true
	}
	if p.unsure {
		return false
	}
	if p.version != "" && newer(p.version, t.view.LastStoreSyncResourceVersion()) {
		return false
	}
	p.version = ""
	for uid, key := range p.deleted {
		if t.alive(uid, key) {
			return false
		}
		delete(p.deleted, uid)
	}
	delete(t.owner, owner)
	return true
}

func (t *Tracker) pendingOf(owner types.UID) *pending {
	p := t.owner[owner]
	if p == nil {
		p = &pending{deleted: map[types.UID]string{}}
		t.owner[owner] = p
	}
	return p
}

func (t *Tracker) alive(uid types.UID, key string) bool {
	item, exists, err := t.view.GetByKey(key)
	if err != nil || !exists {
		return false
	}
	obj, ok := item.(metav1.Object)
	return ok && obj.GetUID() == uid && obj.GetDeletionTimestamp() == nil
}

// newer reports whether version a is later than b. Versions that cannot be compared never hold a controller back.
func newer(a, b string) bool {
	if a == "" || b == "" {
		return a != ""
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}
