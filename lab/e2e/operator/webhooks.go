package main

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	defaultImage = "registry.keelson.dev/demo:1"
	mostReplicas = 5
)

// serveWebhooks lets the API server ask about sites: what they lack, whether they are allowed, and how they read in the other version.
func serveWebhooks(manager ctrl.Manager) error {
	err := ctrl.NewWebhookManagedBy(manager, &Site{}).WithDefaulter(defaulter{}).WithValidator(validator{}).Complete()
	if err != nil {
		return fmt.Errorf("create webhooks: %w", err)
	}
	return nil
}

type defaulter struct{}

// Default gives a site an image.
func (defaulter) Default(_ context.Context, site *Site) error {
	if site.Spec.Image == "" {
		site.Spec.Image = defaultImage
	}
	return nil
}

type validator struct{}

func (validator) ValidateCreate(_ context.Context, site *Site) (admission.Warnings, error) {
	return check(site)
}

func (validator) ValidateUpdate(_ context.Context, _, site *Site) (admission.Warnings, error) {
	return check(site)
}

func (validator) ValidateDelete(_ context.Context, site *Site) (admission.Warnings, error) {
	if site.Annotations["e2e.keelson.dev/keep"] != "" {
		return nil, fmt.Errorf("site %s is to be kept", site.Name)
	}
	return nil, nil
}

func check(site *Site) (admission.Warnings, error) {
	if site.Spec.Replicas > mostReplicas {
		return nil, apierrors.NewInvalid(groupVersion.WithKind("Site").GroupKind(), site.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), site.Spec.Replicas, "more than a site needs"),
		})
	}
	if site.Spec.Replicas == 0 {
		return admission.Warnings{"a site without replicas answers nobody"}, nil
	}
	return nil, nil
}

// Hub marks v1 as the version that all others are converted to and from.
func (*Site) Hub() {}

// ConvertTo makes a v1 site of this one.
func (s *OldSite) ConvertTo(hub conversion.Hub) error { //nolint:unparam // conversion.Convertible asks for it
	site := hub.(*Site)
	site.ObjectMeta, site.Status = s.ObjectMeta, s.Status
	site.Spec = SiteSpec{Image: s.Spec.Image, Replicas: s.Spec.Instances}
	return nil
}

// ConvertFrom makes this the old form of a v1 site.
func (s *OldSite) ConvertFrom(hub conversion.Hub) error { //nolint:unparam // conversion.Convertible asks for it
	site := hub.(*Site)
	s.ObjectMeta, s.Status = site.ObjectMeta, site.Status
	s.Spec = OldSiteSpec{Image: site.Spec.Image, Instances: site.Spec.Replicas}
	return nil
}
