package core

import "keelson.dev/apis/resource"

// workloadResources lists the kinds of the group that run containers or describe them.
func workloadResources() []*resource.Resource {
	return []*resource.Resource{
		pod.Resource(),
		podTemplate.Resource(),
		replicationController.Resource(),
	}
}
