package apis

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/randfill"

	"keelson.dev/apis/resource"
)

// random fills objects with values that no sane client would send, but for types that check their own syntax.
func random(scheme *runtime.Scheme, seed int64) *randfill.Filler {
	klog.SetLogger(logr.Discard()) // libraries log values that validation would have kept from them
	return fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), serializer.NewCodecFactory(scheme)).Funcs(
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = *apiresource.NewMilliQuantity(c.Int63n(1<<40)-1000, apiresource.DecimalSI)
			_ = q.String() // a quantity remembers its text
		},
		func(raw *runtime.RawExtension, c randfill.Continue) {
			raw.Raw = fmt.Appendf(nil, `{"number":%d}`, c.Intn(100))
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			*v = []intstr.IntOrString{
				intstr.FromInt32(int32(c.Intn(70000)) - 10), intstr.FromString(fmt.Sprintf("%d%%", c.Intn(200))), intstr.FromString(c.String(8)),
			}[c.Intn(3)]
		},
	)
}

func filled(row *resource.Resource, fill *randfill.Filler) resource.Object {
	obj := row.New()
	fill.Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return obj
}

func TestRoundTrip(t *testing.T) {
	scheme := NewScheme()
	codecs := serializer.NewCodecFactory(scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	for _, row := range All() {
		t.Run(row.GroupResource().String(), func(t *testing.T) {
			for seed := range int64(10) {
				obj := filled(row, random(scheme, seed))
				for _, info := range codecs.SupportedMediaTypes() {
					for _, gv := range ServedVersions(row)[:1] {
						roundTrip(t, codecs, info, gv, obj)
					}
				}
			}
		})
	}
}

func roundTrip(t *testing.T, codecs serializer.CodecFactory, info runtime.SerializerInfo, gv schema.GroupVersion, obj resource.Object) {
	t.Helper()
	data, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, gv), obj.DeepCopyObject())
	if err != nil {
		t.Fatalf("encode %s: %v", info.MediaType, err)
	}
	// Without defaulting and conversion: what is stored is what was sent.
	got, _, err := info.Serializer.Decode(data, nil, nil)
	if err != nil {
		t.Fatalf("decode %s: %v", info.MediaType, err)
	}
	got.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !apiequality.Semantic.DeepEqual(obj, got) {
		t.Errorf("%s changed the object: %s", info.MediaType, cmp.Diff(fmt.Sprintf("%+v", obj), fmt.Sprintf("%+v", got)))
	}
}

// TestConversionsKeepEverything goes from the hub to each other version and back.
func TestConversionsKeepEverything(t *testing.T) {
	scheme := NewScheme()
	for _, row := range All() {
		for _, gv := range row.Served {
			for seed := range int64(50) {
				obj := filled(row, random(scheme, seed))
				other, err := scheme.ConvertToVersion(obj.DeepCopyObject(), gv)
				if err != nil {
					t.Fatalf("%s to %v: %v", row.Kind, gv, err)
				}
				if _, err := scheme.ConvertToVersion(other, schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}); err != nil {
					t.Fatalf("%s from %v: %v", row.Kind, gv, err)
				}
			}
		}
	}
}

// exercise calls every hook of a row, which must not panic whatever the objects hold.
func exercise(row *resource.Resource, obj, old resource.Object) {
	copied := func(o resource.Object) resource.Object { return o.DeepCopyObject().(resource.Object) }
	if row.Default != nil {
		row.Default(copied(obj))
	}
	if row.Validate != nil {
		row.Validate(copied(obj))
	}
	if row.Warn != nil {
		row.Warn(copied(obj), nil)
		row.Warn(copied(obj), copied(old))
	}
	if row.Prepare != nil {
		row.Prepare(copied(obj), nil)
		row.Prepare(copied(obj), copied(old))
	}
	if row.PrepareStatus != nil {
		row.PrepareStatus(copied(obj), copied(old))
	}
	if row.ValidateUpdate != nil {
		row.ValidateUpdate(copied(obj), copied(old))
	}
	if row.ValidateStatus != nil {
		row.ValidateStatus(copied(obj), copied(old))
	}
	if row.GenerationOf != nil {
		row.GenerationOf(copied(obj))
	}
	if row.TTL != nil {
		row.TTL(copied(obj))
	}
	if row.Grace != nil {
		row.Grace(copied(obj), &metav1.DeleteOptions{})
	}
	if row.Scale != nil {
		row.Scale.Get(copied(obj))
		row.Scale.Set(copied(obj), 3)
	}
	for _, column := range row.Columns {
		column.Get(copied(obj))
	}
	for _, get := range row.Fields {
		get(copied(obj))
	}
}

func exerciseRow(t *testing.T, scheme *runtime.Scheme, row *resource.Resource, seed int64) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%s, seed %d: %v", row.GroupResource(), seed, r)
			panic(r) // for its stack
		}
	}()
	fill := random(scheme, seed)
	obj, old := filled(row, fill), filled(row, fill)
	exercise(row, obj, old)
	exercise(row, obj, row.New())
	exercise(row, row.New(), obj)
	similar := obj.DeepCopyObject().(resource.Object)
	exercise(row, similar, obj)
	if row.Default == nil {
		return
	}
	row.Default(obj)
	once := obj.DeepCopyObject()
	row.Default(obj)
	if !apiequality.Semantic.DeepEqual(once, obj) {
		t.Errorf("%s, seed %d: defaulting twice gives another object: %s", row.GroupResource(), seed,
			cmp.Diff(fmt.Sprintf("%+v", once), fmt.Sprintf("%+v", obj)))
	}
	exercise(row, obj, old)
}

func TestHooksNeverPanic(t *testing.T) {
	scheme := NewScheme()
	for _, row := range All() {
		t.Run(row.GroupResource().String(), func(t *testing.T) {
			exercise(row, row.New(), row.New())
			for seed := range int64(30) {
				exerciseRow(t, scheme, row, seed)
			}
		})
	}
}

// FuzzHooks runs longer in `make fuzz`.
func FuzzHooks(f *testing.F) {
	scheme, rows := NewScheme(), All()
	f.Add(int64(1), uint8(0))
	f.Fuzz(func(t *testing.T, seed int64, row uint8) { exerciseRow(t, scheme, rows[int(row)%len(rows)], seed) })
}

// FuzzDecode feeds bytes to every decoder; what decodes has to survive defaulting and validation.
func FuzzDecode(f *testing.F) {
	scheme := NewScheme()
	codecs := serializer.NewCodecFactory(scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	rows := map[schema.GroupVersionKind]*resource.Resource{}
	for _, row := range All() {
		rows[row.GroupVersionKind()] = row
		for _, info := range codecs.SupportedMediaTypes() {
			data, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, row.GroupVersion), filled(row, random(scheme, 1)))
			if err != nil {
				f.Fatalf("encode %s: %v", row.Kind, err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, info := range codecs.SupportedMediaTypes() {
			obj, gvk, err := codecs.DecoderToVersion(info.Serializer, runtime.InternalGroupVersioner).Decode(data, nil, nil)
			if err != nil {
				continue
			}
			if row := rows[*gvk]; row != nil {
				exercise(row, obj.(resource.Object), row.New())
			}
		}
	})
}
