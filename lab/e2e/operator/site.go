package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	groupVersion    = schema.GroupVersion{Group: "e2e.keelson.dev", Version: "v1"}
	oldGroupVersion = schema.GroupVersion{Group: "e2e.keelson.dev", Version: "v1beta1"}
)

// Site is a web site of so many replicas of an image.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   SiteSpec   `json:"spec"`
	Status SiteStatus `json:"status"`
}

// SiteSpec is what the user wants.
type SiteSpec struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
}

// SiteStatus is what the operator sees.
type SiteStatus struct {
	ReadyReplicas      int32 `json:"readyReplicas"`
	ObservedGeneration int64 `json:"observedGeneration"`
}

// OldSite is a Site of v1beta1, which had another name for its replicas.
type OldSite struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   OldSiteSpec `json:"spec"`
	Status SiteStatus  `json:"status"`
}

// OldSiteSpec is what the user wants, in v1beta1.
type OldSiteSpec struct {
	Image     string `json:"image"`
	Instances int32  `json:"instances"`
}

// SiteList is a list of sites.
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []Site `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (s *Site) DeepCopyObject() runtime.Object {
	copied := *s
	copied.ObjectMeta = *s.ObjectMeta.DeepCopy() //nolint:staticcheck // DeepCopy alone would read as that of the site
	return &copied
}

// DeepCopyObject implements runtime.Object.
func (l *SiteList) DeepCopyObject() runtime.Object {
	copied := *l
	copied.ListMeta = *l.ListMeta.DeepCopy() //nolint:staticcheck // as above
	copied.Items = make([]Site, len(l.Items))
	for i := range l.Items {
		copied.Items[i] = *l.Items[i].DeepCopyObject().(*Site)
	}
	return &copied
}

// DeepCopyObject implements runtime.Object.
func (s *OldSite) DeepCopyObject() runtime.Object {
	copied := *s
	copied.ObjectMeta = *s.ObjectMeta.DeepCopy() //nolint:staticcheck // as above
	return &copied
}
