package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// encrypted begins what API servers have encrypted.
var encrypted = []byte("k8s:enc:")

// Count returns the revision of a database and how many keys it holds. The file's structure is checked.
func Count(db string) (revision int64, keys int, err error) {
	status, err := snapshot.NewV3(zap.NewNop()).Status(db)
	if err != nil {
		return 0, 0, fmt.Errorf("read etcd's snapshot: %w", err)
	}
	return status.Revision, status.TotalKey, nil
}

// Objects reads the newest state of every object in a database, by key. encryption is the configuration of what is encrypted at rest; it
// may be absent.
func Objects(ctx context.Context, db, encryption string) (map[string]*unstructured.Unstructured, error) {
	d, err := newDecoder(ctx, encryption)
	if err != nil {
		return nil, err
	}
	file, err := bolt.Open(db, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("read etcd's snapshot: %w", err)
	}
	defer file.Close()
	newest := map[string][]byte{}
	err = file.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		if bucket == nil {
			return errors.New("no keys in it")
		}
		return bucket.ForEach(func(revision, data []byte) error { // in the order of revisions
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(data, &kv); err != nil {
				return err
			}
			if mvcc.IsTombstone(revision) {
				delete(newest, string(kv.GetKey()))
			} else if len(kv.GetKey()) > 0 { // empty: the mark of a restore
				newest[string(kv.GetKey())] = kv.GetValue()
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read etcd's snapshot: %w", err)
	}
	objects := make(map[string]*unstructured.Unstructured, len(newest))
	for key, data := range newest {
		object, err := d.decode(ctx, key, data)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		if object != nil {
			objects[key] = object
		}
	}
	return objects, nil
}

type decoder struct {
	decoder      runtime.Decoder
	transformers []value.Transformer
}

func newDecoder(ctx context.Context, encryption string) (*decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	d := &decoder{decoder: serializer.NewCodecFactory(scheme).UniversalDeserializer()}
	if _, err := os.Stat(encryption); errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, encryption, false, "snapshot")
	if err != nil {
		return nil, fmt.Errorf("read the keys of what is encrypted at rest: %w", err)
	}
	for _, transformer := range config.Transformers {
		d.transformers = append(d.transformers, transformer)
	}
	return d, nil
}

// decode returns nil for what is no object, such as a server's own counters.
func (d *decoder) decode(ctx context.Context, key string, data []byte) (*unstructured.Unstructured, error) {
	if strings.HasPrefix(key, "/registry/masterleases/") || strings.HasPrefix(key, "/registry/ranges/") {
		return nil, nil
	}
	if bytes.HasPrefix(data, encrypted) {
		plain, err := d.decrypt(ctx, key, data)
		if err != nil {
			return nil, err
		}
		data = plain
	}
	content := map[string]any{}
	if bytes.HasPrefix(data, []byte("{")) {
		if err := json.Unmarshal(data, &content); err != nil {
			return nil, err
		}
	} else {
		object, _, err := d.decoder.Decode(data, nil, nil)
		if runtime.IsNotRegisteredError(err) || !bytes.HasPrefix(data, []byte("k8s\x00")) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if content, err = runtime.DefaultUnstructuredConverter.ToUnstructured(object); err != nil {
			return nil, err
		}
	}
	object := &unstructured.Unstructured{Object: content}
	if object.GetKind() == "" {
		return nil, nil
	}
	return object, nil
}

func (d *decoder) decrypt(ctx context.Context, key string, data []byte) (plain []byte, err error) {
	err = errors.New("it is encrypted at rest, and there is no configuration of that")
	for _, transformer := range d.transformers {
		if plain, _, err = transformer.TransformFromStorage(ctx, data, value.DefaultContext(key)); err == nil {
			return plain, nil
		}
	}
	return nil, err
}
