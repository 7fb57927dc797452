package server

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	extensions "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/client-go/discovery"
	clientopenapi "k8s.io/client-go/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"keelson.dev/apis"
	generated "keelson.dev/apis/generated/openapi"
)

// openAPI is what the configurations of all three servers share.
type openAPI struct {
	scheme      *runtime.Scheme
	namer       *openapinamer.DefinitionNamer
	definitions common.GetOpenAPIDefinitions
}

func newOpenAPI() openAPI {
	scheme := apis.NewOpenAPIScheme()
	return openAPI{
		scheme:      scheme,
		namer:       openapinamer.NewDefinitionNamer(scheme),
		definitions: openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generated.GetOpenAPIDefinitions),
	}
}

func (o openAPI) apply(c *genericapiserver.Config) {
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(o.definitions, o.namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(o.definitions, o.namer)
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
}

// ofExtensions are the definitions of the kinds that the server of custom resources brings. The library builds its documents at the
// start, and more than once: with the definitions of all kinds that would be a good part of the start.
func (o openAPI) ofExtensions(c *genericapiserver.Config) {
	v2, v3 := *c.OpenAPIConfig, *c.OpenAPIV3Config
	v2.GetDefinitions, v2.Definitions = extensions.GetOpenAPIDefinitions, nil
	v3.GetDefinitions, v3.Definitions = extensions.GetOpenAPIDefinitions, nil
	c.OpenAPIConfig, c.OpenAPIV3Config = &v2, &v3
}

// documents are the OpenAPI documents of the built-in group versions, by their paths below /openapi/v3, with nothing but the types.
func (o openAPI) documents() map[string]clientopenapi.GroupVersion {
	documents := map[string]clientopenapi.GroupVersion{}
	for _, gv := range o.scheme.PrioritizedVersionsAllGroups() {
		path := "apis/" + gv.String()
		if gv.Group == "" {
			path = "api/" + gv.Version
		}
		documents[path] = document{o, gv}
	}
	return documents
}

// document is of one group version.
type document struct {
	openAPI openAPI
	gv      schema.GroupVersion
}

// ServerRelativeURL implements openapi.GroupVersion. A built-in document never changes, so no hash follows.
func (d document) ServerRelativeURL() string { return "/openapi/v3/" + d.gv.String() }

// Schema implements openapi.GroupVersion; it knows JSON only.
func (d document) Schema(string) ([]byte, error) {
	config := genericapiserver.DefaultOpenAPIV3Config(d.openAPI.definitions, d.openAPI.namer)
	var names []string
	for _, known := range d.openAPI.scheme.KnownTypes(d.gv) {
		name := openapiutil.GetCanonicalTypeName(reflect.New(known).Interface())
		if _, defined := config.Definitions[name]; defined {
			names = append(names, name)
		}
	}
	schemas, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
	if err != nil {
		return nil, fmt.Errorf("build the types of %s: %w", d.gv, err)
	}
	return json.Marshal(spec3.OpenAPI{Version: "3.0.0", Components: &spec3.Components{Schemas: schemas}})
}

// lazySchemas types CEL expressions. The definitions of all built-in kinds are large and most clusters have no policy that needs
// them: they are built at the first question.
type lazySchemas struct {
	openAPI   openAPI
	discovery discovery.DiscoveryInterface

	once  sync.Once
	built resolver.SchemaResolver
}

// ResolveSchema implements resolver.SchemaResolver.
func (l *lazySchemas) ResolveSchema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	l.once.Do(func() {
		l.built = resolver.NewDefinitionsSchemaResolver(l.openAPI.definitions, l.openAPI.scheme).
			Combine(&resolver.ClientDiscoveryResolver{Discovery: l.discovery})
	})
	return l.built.ResolveSchema(gvk)
}

// securitySchemes says in OpenAPI v3 what definitions say in v2.
func securitySchemes(definitions *spec.SecurityDefinitions) spec3.SecuritySchemes {
	schemes := spec3.SecuritySchemes{}
	if definitions == nil {
		return schemes
	}
	for name, d := range *definitions {
		schemes[name] = &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
			Type: d.Type, Name: d.Name, In: d.In, Description: d.Description,
		}}
	}
	return schemes
}
