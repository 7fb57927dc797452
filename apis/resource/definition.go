// Package resource defines what one row of the API table is: everything that is particular to a kind, as values and pure
// functions, without HTTP and without etcd. Package apiserver/registry turns a row into storage.
package resource

import (
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every stored kind is: a typed API object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Definition is one kind, typed. T is a pointer to the external Go type, for example *appsv1.Deployment, which is also the hub.
// Every hook is optional: nil means that nothing is particular. Hooks are pure but for the objects that they are told to change.
type Definition[T Object] struct {
	GroupVersion schema.GroupVersion   // the hub and storage version
	Served       []schema.GroupVersion // further versions under which it is served; conversions stand in the group's register.go
	Kind         string
	Plural       string
	Singular     string // empty: the lower-case kind
	ShortNames   []string
	Categories   []string
	Namespaced   bool
	KeyPrefix    string // below /registry; empty: the plural, as upstream stores it
	HasStatus    bool   // serves /status; updates of the main resource then leave status alone and the reverse
	// StatusOnCreate keeps the status that a client sends on create (Node); without it, a kind with HasStatus starts with none.
	StatusOnCreate bool
	// Unowned names fields, besides status, that no field manager owns (spec of CertificateSigningRequest).
	Unowned []string
	// OrphanDependents is the deletion policy for clients that name none (ReplicationController, Job); else background.
	OrphanDependents bool
	// OrphanWarning is told to clients whose deletion falls back to orphaning dependents; empty: nothing is.
	OrphanWarning string
	// ReturnDeleted makes DELETE answer with the object instead of a Status (Pod, Service, PersistentVolumeClaim, ...).
	ReturnDeleted bool

	// Default fills absent fields. It runs wherever the object is decoded and must be idempotent.
	Default func(obj T)
	// Prepare runs before validation on create (old is nil) and on update of the main resource: it drops what clients may not
	// set. The generic strategy has already kept status (HasStatus), bumped the generation when the spec changed and set the
	// system metadata.
	Prepare func(obj, old T)
	// PrepareStatus does the same for updates of /status. The generic strategy has already restored everything but metadata and
	// status: upstream lets /status change annotations and mostly labels too, so a kind that does not restores them here.
	PrepareStatus func(obj, old T)
	// StatusFixes names the parts of metadata that updates of /status leave as they are, for example ownerReferences of pods;
	// "metadata" is all of it.
	StatusFixes []string
	// Validate checks an object on create; on update it is followed by ValidateUpdate. Metadata has been checked already.
	Validate func(obj T) field.ErrorList
	// ValidateUpdate checks what may change, immutable fields first of all. Where it is set, Validate is not called on update
	// unless ValidateUpdate calls it: the rules of an update may be laxer, so that old objects stay writable.
	ValidateUpdate func(obj, old T) field.ErrorList
	// ValidateStatus checks an update of /status.
	ValidateStatus func(obj, old T) field.ErrorList
	// ValidateServed replaces Validate and ValidateUpdate for requests in another version than the hub's; old is nil on create.
	ValidateServed map[schema.GroupVersion]func(obj, old T) field.ErrorList
	// NameOnce leaves the name and generateName unchecked on update, where upstream does.
	NameOnce bool
	// AnyFinalizer leaves finalizers without a domain alone, as upstream does for the kinds of admissionregistration.k8s.io.
	AnyFinalizer bool
	// ValidateName checks metadata.name (and generateName with prefix true); nil means a DNS-1123 subdomain.
	ValidateName func(name string, prefix bool) []string
	// Warn returns warnings for the client, on create (old is nil) and update.
	Warn func(obj, old T) []string

	// Columns are what kubectl get prints, as upstream prints them; nil means Name and Age.
	Columns []Column[T]
	// RowConditions marks the object's row, for example as completed.
	RowConditions func(obj T) []metav1.TableRowCondition
	// WarnUnprepared returns warnings about a new object as it came, before Prepare.
	WarnUnprepared func(obj T) []string
	// RowOrder compares the objects of a list for printing, as slices.SortStableFunc wants it; nil leaves the order of the store.
	RowOrder func(a, b T) int
	// WarnStatus returns warnings about an update of /status.
	WarnStatus func(obj T) []string
	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	Fields map[string]func(obj T) string
	// Index names one of Fields to be indexed in the watch cache, for example spec.nodeName of pods.
	Index string
	// Scale serves /scale.
	Scale *Scale[T]
	// Grace decides about graceful deletion: it may set options.GracePeriodSeconds and tells whether the object stays until its
	// owner has let go of it. Nil means immediate deletion.
	Grace func(obj T, options *metav1.DeleteOptions) bool
	// TTL is how long an object is kept in the store; nil or 0 means forever. Events use it.
	TTL func(obj T) time.Duration
	// AllowCreateOnUpdate lets PUT create an absent object (Lease, Event, Endpoints, ...), as upstream allows for that kind.
	AllowCreateOnUpdate bool
	// AllowUnconditionalUpdate lets PUT without a resourceVersion overwrite; upstream allows it for most kinds.
	AllowUnconditionalUpdate bool
	// GenerationOf returns what metadata.generation counts changes of; nil means everything but metadata and status for kinds
	// with HasStatus, and no generation at all for kinds without. A function that returns nil means no generation (Service, Node,
	// Namespace, PersistentVolume, ...).
	GenerationOf func(obj T) any
	// LateGeneration leaves new objects without a generation; the first change makes it 1 (CSIDriver).
	LateGeneration bool
}

// Column is one column of the Table that the server prints for an object.
type Column[T Object] struct {
	Name        string
	Type        string // string, integer, number, boolean, date; empty: string
	Format      string // name for the Name column
	Description string
	Priority    int32 // 0 is always shown; above 0 only with -o wide
	Get         func(obj T) any
}

// Scale maps a kind to autoscaling/v1 Scale.
type Scale[T Object] struct {
	// Get returns spec.replicas, status.replicas and the serialized label selector.
	Get func(obj T) (spec, status int32, selector string)
	// Set writes spec.replicas.
	Set func(obj T, replicas int32)
}

// Resource is a Definition without its type parameter: the row as the server consumes it. A nil hook stays nil.
type Resource struct {
	GroupVersion schema.GroupVersion
	Served       []schema.GroupVersion
	Kind         string
	Plural       string
	Singular     string
	ShortNames   []string
	Categories   []string
	Namespaced   bool
	KeyPrefix    string
	HasStatus    bool

	StatusOnCreate   bool
	OrphanDependents bool
	OrphanWarning    string
	ReturnDeleted    bool
	LateGeneration   bool
	NameOnce         bool
	AnyFinalizer     bool

	New                      func() Object
	Default                  func(obj Object)
	Prepare                  func(obj, old Object)
	PrepareStatus            func(obj, old Object)
	Validate                 func(obj Object) field.ErrorList
	ValidateUpdate           func(obj, old Object) field.ErrorList
	ValidateStatus           func(obj, old Object) field.ErrorList
	ValidateServed           map[schema.GroupVersion]func(obj, old Object) field.ErrorList
	ValidateName             func(name string, prefix bool) []string
	Warn                     func(obj, old Object) []string
	StatusFixes, Unowned     []string
	Columns                  []Column[Object]
	RowConditions            func(obj Object) []metav1.TableRowCondition
	WarnUnprepared           func(obj Object) []string
	RowOrder                 func(a, b Object) int
	WarnStatus               func(obj Object) []string
	Fields                   map[string]func(obj Object) string
	Index                    string
	Scale                    *Scale[Object]
	Grace                    func(obj Object, options *metav1.DeleteOptions) bool
	TTL                      func(obj Object) time.Duration
	AllowCreateOnUpdate      bool
	AllowUnconditionalUpdate bool
	GenerationOf             func(obj Object) any
}

// GroupResource names the row.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.GroupVersion.Group, Resource: r.Plural}
}

// GroupVersionKind is the kind of the hub version.
func (r *Resource) GroupVersionKind() schema.GroupVersionKind {
	return r.GroupVersion.WithKind(r.Kind)
}

// Resource erases the type parameter.
func (d *Definition[T]) Resource() *Resource {
	elem := reflect.TypeFor[T]().Elem()
	return &Resource{
		GroupVersion: d.GroupVersion, Served: d.Served, Kind: d.Kind, Plural: d.Plural, Singular: d.singular(),
		ShortNames: d.ShortNames, Categories: d.Categories, Namespaced: d.Namespaced, KeyPrefix: d.KeyPrefix,
		HasStatus: d.HasStatus, Index: d.Index, ValidateName: d.ValidateName,
		StatusOnCreate: d.StatusOnCreate, OrphanDependents: d.OrphanDependents, OrphanWarning: d.OrphanWarning,
		StatusFixes: d.StatusFixes, Unowned: d.Unowned, ReturnDeleted: d.ReturnDeleted, LateGeneration: d.LateGeneration, NameOnce: d.NameOnce, AnyFinalizer: d.AnyFinalizer,
		AllowCreateOnUpdate: d.AllowCreateOnUpdate, AllowUnconditionalUpdate: d.AllowUnconditionalUpdate,

		New:            func() Object { return reflect.New(elem).Interface().(Object) },
		Default:        eraseOne(d.Default),
		Prepare:        eraseChange(d.Prepare),
		PrepareStatus:  eraseChange(d.PrepareStatus),
		Validate:       eraseGet(d.Validate),
		ValidateUpdate: eraseTwo(d.ValidateUpdate),
		ValidateStatus: eraseTwo(d.ValidateStatus),
		ValidateServed: eraseServed(d.ValidateServed),
		Warn:           eraseTwo(d.Warn),
		Columns:        eraseColumns(d.Columns),
		RowConditions:  eraseGet(d.RowConditions),
		WarnUnprepared: eraseGet(d.WarnUnprepared),
		RowOrder:       eraseOrder(d.RowOrder),
		WarnStatus:     eraseGet(d.WarnStatus),
		Fields:         eraseFields(d.Fields),
		Scale:          eraseScale(d.Scale),
		Grace:          eraseGrace(d.Grace),
		TTL:            eraseGet(d.TTL),
		GenerationOf:   eraseGet(d.GenerationOf),
	}
}
