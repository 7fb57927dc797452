package server

import (
	"strings"

	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/version"
)

// servedVersion is the Kubernetes release whose API this server serves; a build may link another into component-base/version.
const servedVersion = "v1.37.2"

// effectiveVersion answers /version with what is served. A binary built without linker flags has a placeholder there, which
// kubectl cannot parse.
type effectiveVersion struct{ compatibility.EffectiveVersion }

// Info implements compatibility.EffectiveVersion.
func (e effectiveVersion) Info() *apimachineryversion.Info {
	info := e.EffectiveVersion.Info()
	if info == nil {
		linked := version.Get()
		info = &linked
	}
	if strings.HasPrefix(info.GitVersion, "v0.0.0") || info.GitVersion == "" {
		info.GitVersion = servedVersion
	}
	if strings.HasPrefix(info.GitCommit, "$Format") {
		info.GitCommit = ""
	}
	parts := strings.SplitN(strings.TrimPrefix(info.GitVersion, "v"), ".", 3)
	if info.Major == "" && len(parts) == 3 {
		info.Major, info.Minor = parts[0], parts[1]
	}
	return info
}
