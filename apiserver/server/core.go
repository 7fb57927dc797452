package server

import (
	"fmt"
	"maps"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/apis"
	"keelson.dev/apis/resource"
	"keelson.dev/apiserver/admission/expressions"
	"keelson.dev/apiserver/registry"
	"keelson.dev/apiserver/reviews"
)

// storages is what is served: by group version, by resource or resource/subresource.
type storages map[schema.GroupVersion]map[string]rest.Storage

func (s storages) add(gv schema.GroupVersion, more map[string]rest.Storage) {
	if s[gv] == nil {
		s[gv] = map[string]rest.Storage{}
	}
	maps.Copy(s[gv], more)
}

// addAbsent leaves alone what is served by something particular.
func (s storages) addAbsent(gv schema.GroupVersion, more map[string]rest.Storage) {
	for name := range s[gv] {
		delete(more, name)
	}
	s.add(gv, more)
}

// kinds are the stores of all rows.
type kinds map[schema.GroupResource]*registry.Kind

// newCore builds the server of the built-in kinds.
func (c *config) newCore(delegate genericapiserver.DelegationTarget) (*genericapiserver.GenericAPIServer, error) {
	generic := *c.generic
	generic.SkipOpenAPIInstallation = true // publishCore does it
	server, err := generic.Complete(c.informers).New("kube-apiserver", delegate)
	if err != nil {
		return nil, fmt.Errorf("build the core server: %w", err)
	}
	server.Handler.GoRestfulContainer.Router(&router{})
	if c.options.EnableLogsHandler {
		server.Handler.NonGoRestfulMux.HandlePrefix("/logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir("/var/log"))))
	}
	if err := c.security.publishKeys(c, server); err != nil {
		return nil, err
	}
	kinds, err := c.newKinds()
	if err != nil {
		return nil, err
	}
	served := storages{}
	if err := c.hang(kinds, served, server); err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		for _, gv := range c.servedVersions(kind.Row) {
			served.addAbsent(gv, kind.Storages())
		}
	}
	served.add(authenticationv1.SchemeGroupVersion, reviews.Authentication(c.generic.Authentication.Authenticator, c.security.audiences))
	served.add(authorizationv1.SchemeGroupVersion, reviews.Authorization(c.generic.Authorization.Authorizer, c.generic.RuleResolver))
	return server, c.install(server, served)
}

func (c *config) newKinds() (kinds, error) {
	all := kinds{}
	rules := map[schema.GroupResource]func(resource.Object) field.ErrorList{}
	for _, row := range c.rows {
		rules[row.GroupResource()] = row.Validate
	}
	compiled := expressions.Guards(rules)
	for _, row := range c.rows {
		if len(c.servedVersions(row)) == 0 {
			continue
		}
		cfg := registry.Config{Scheme: c.scheme, Options: c.backend.Getter(c.generic.RESTOptionsGetter), EventTTL: c.options.EventTTL}
		if !c.options.AllowPrivileged {
			cfg.Restrict = forbidPrivileged
		}
		if row.Kind == "ResourceClaim" || row.Kind == "ResourceClaimTemplate" {
			cfg.Restrict = c.restrictAdminAccess
		}
		kind, err := registry.New(row, cfg)
		if err != nil {
			return nil, err
		}
		if check, ok := c.security.authorization.Escalation[row.GroupResource()]; ok {
			kind.Guard = check
		}
		if check, ok := compiled[row.GroupResource()]; ok {
			kind.Guard = check
		}
		switch row.Kind {
		case "ValidatingAdmissionPolicy":
			kind.GuardStatus = expressions.ValidateStatus
		case "ResourceClaim":
			kind.GuardStatus = c.guardClaimStatus
		case "PodCertificateRequest":
			kind.GuardStatus = c.guardPodCertificate
		}
		all[row.GroupResource()] = kind
	}
	return all, nil
}

// install serves the groups in the order of apis.Groups.
func (c *config) install(server *genericapiserver.GenericAPIServer, served storages) error {
	var groups []*genericapiserver.APIGroupInfo
	for _, group := range apis.Groups() {
		name := group.Versions[0].Group
		info := genericapiserver.NewDefaultAPIGroupInfo(name, c.scheme, runtime.NewParameterCodec(c.scheme), c.codecs)
		info.PrioritizedVersions = nil
		for _, version := range group.Versions {
			if len(served[version.GroupVersion]) == 0 || !c.enabled(version.GroupVersion) {
				continue
			}
			info.PrioritizedVersions = append(info.PrioritizedVersions, version.GroupVersion)
			info.VersionedResourcesStorageMap[version.Version] = served[version.GroupVersion]
		}
		if len(info.PrioritizedVersions) == 0 {
			continue
		}
		if name == corev1.GroupName {
			if err := server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info); err != nil {
				return fmt.Errorf("install the core group: %w", err)
			}
			info.StaticOpenAPISpec = nil
			continue
		}
		groups = append(groups, &info)
	}
	if err := server.InstallAPIGroups(groups...); err != nil {
		return fmt.Errorf("install API groups: %w", err)
	}
	for _, info := range groups {
		info.StaticOpenAPISpec = nil // the server keeps the groups, to end their storage, and this would be 5 MB of schemas
	}
	return nil
}
