package storage

import (
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"keelson.dev/apis/resource"
)

// upstreamPrefixes are the kinds that upstream stores under another name than their plural, so that one data directory serves
// both.
var upstreamPrefixes = map[schema.GroupResource]string{
	{Resource: "replicationcontrollers"}:                "controllers",
	{Resource: "endpoints"}:                             "services/endpoints",
	{Resource: "services"}:                              "services/specs",
	{Resource: "nodes"}:                                 "minions",
	{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",

	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: "apiextensions.k8s.io/customresourcedefinitions",
	{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             "apiregistration.k8s.io/apiservices",
}

// NewFactory says where and how each kind is stored: the rows' in protobuf as their hub version, CRDs and APIServices as their
// own libraries want it.
func NewFactory(rows []*resource.Resource, scheme *runtime.Scheme, codecs serializer.CodecFactory, config storagebackend.Config, enabled serverstorage.APIResourceConfigSource) *serverstorage.DefaultStorageFactory {
	encoding := serverstorage.NewDefaultResourceEncodingConfig(scheme)
	prefixes := make(map[schema.GroupResource]string, len(upstreamPrefixes))
	maps.Copy(prefixes, upstreamPrefixes)
	for _, row := range rows {
		internal := schema.GroupVersion{Group: row.GroupVersion.Group, Version: runtime.APIVersionInternal}
		encoding.SetResourceEncoding(row.GroupResource(), row.GroupVersion, internal)
		if row.KeyPrefix != "" {
			prefixes[row.GroupResource()] = row.KeyPrefix
		}
	}
	factory := serverstorage.NewDefaultStorageFactory(config, runtime.ContentTypeProtobuf, codecs, encoding, enabled, prefixes)
	for _, row := range rows {
		factory.AddSerializationChains(nil, clearKinds, row.GroupResource())
	}
	return factory
}

// SetOverrides applies --etcd-servers-overrides.
func SetOverrides(factory *serverstorage.DefaultStorageFactory, overrides []string) error {
	parsed, err := options.ParseEtcdServersOverrides(overrides)
	if err != nil {
		return fmt.Errorf("--etcd-servers-overrides: %w", err)
	}
	for _, o := range parsed {
		factory.SetEtcdLocation(o.GroupResource, o.Servers)
	}
	return nil
}

// clearKinds makes stored objects decode without kind and version. With internal types the decoder drops them by converting; here
// the stored type is the hub, and items of lists would keep what upstream never shows.
func clearKinds(decoders []runtime.Decoder) []runtime.Decoder {
	cleared := make([]runtime.Decoder, len(decoders))
	for i, d := range decoders {
		cleared[i] = kindClearer{d}
	}
	return cleared
}

type kindClearer struct{ runtime.Decoder }

// Decode implements runtime.Decoder.
func (k kindClearer) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := k.Decoder.Decode(data, defaults, into)
	if err == nil && obj != nil {
		if _, unstructured := obj.(runtime.Unstructured); !unstructured {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
	}
	return obj, gvk, err
}

// RecognizesData implements recognizer.RecognizingDecoder where the wrapped decoder does: the storage codec asks each of them.
func (k kindClearer) RecognizesData(peek []byte) (ok, unknown bool, err error) {
	type recognizing interface {
		RecognizesData(peek []byte) (ok, unknown bool, err error)
	}
	if r, is := k.Decoder.(recognizing); is {
		return r.RecognizesData(peek)
	}
	return false, true, nil
}
