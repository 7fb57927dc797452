package core

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestValidateVolumeSource(t *testing.T) {
	const tooFar = "must be between 0 and 255, inclusive"
	cases := map[string]struct {
		source string
		want   []string
	}{
		"nothing":            {`{}`, []string{"v: Required value: must specify a volume type"}},
		"claim":              {`persistentVolumeClaim: {claimName: ""}`, []string{"v.persistentVolumeClaim.claimName: Required value"}},
		"config map":         {`configMap: {items: [{key: k, path: /abs}]}`, []string{"v.configMap.name: Required value", `v.configMap.items[0].path: Invalid value: "/abs": must be a relative path`}},
		"csi":                {`csi: {driver: "", nodePublishSecretRef: {}}`, []string{"v.csi.driver: Required value", "v.csi.nodePublishSecretRef.name: Required value"}},
		"ephemeral":          {`ephemeral: {}`, []string{"v.ephemeral.volumeClaimTemplate: Required value"}},
		"image":              {`image: {pullPolicy: Always}`, []string{"v.image.reference: Required value"}},
		"trust bundle both":  {`projected: {sources: [{clusterTrustBundle: {name: b, signerName: s, path: p}}]}`, []string{`v.projected.sources[0].clusterTrustBundle: Invalid value: {"name":"b","signerName":"s","path":"p"}: only one of name and signerName may be used`}},
		"trust bundle none":  {`projected: {sources: [{clusterTrustBundle: {path: p}}]}`, []string{"v.projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"}},
		"certificate":        {`projected: {sources: [{podCertificate: {}}]}`, []string{"v.projected.sources[0].podCertificate.signerName: Required value", `v.projected.sources[0].podCertificate.keyType: Unsupported value: "": supported values: "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"`, "v.projected.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath"}},
		"two projections":    {`projected: {sources: [{secret: {name: s}, configMap: {name: c}}]}`, []string{"v.projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"}},
		"no projection":      {`projected: {sources: [{}]}`, nil},
		"downward resource":  {`downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}`, []string{"v.downwardAPI.resourceFieldRef.containerName: Required value"}},
		"downward field":     {`downwardAPI: {items: [{path: p, fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}]}`, []string{`v.downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`}},
		"downward unknown":   {`downwardAPI: {items: [{path: p, fieldRef: {apiVersion: v1, fieldPath: spec.color}}]}`, []string{`v.downwardAPI.fieldRef.fieldPath: Invalid value: "spec.color": error converting fieldPath: field label not supported: spec.color`}},
		"downward label key": {`downwardAPI: {items: [{path: p, fieldRef: {apiVersion: v1, fieldPath: "metadata.labels['a b']"}}]}`, []string{`v.downwardAPI.fieldRef: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
		"git":                {`gitRepo: {repository: "", directory: ../x}`, []string{"v.gitRepo.repository: Required value", `v.gitRepo.directory: Invalid value: "../x": must not contain '..'`}},
		"gce":                {`gcePersistentDisk: {pdName: "", partition: 300}`, []string{"v.persistentDisk.pdName: Required value", "v.persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive"}},
		"nfs":                {`nfs: {server: s, path: rel}`, []string{`v.nfs.path: Invalid value: "rel": must be an absolute path`}},
		"iscsi":              {`iscsi: {targetPortal: p, iqn: x, lun: 256, chapAuthSession: true}`, []string{`v.iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa`, "v.iscsi.lun: Invalid value: 256: " + tooFar, "v.iscsi.secretRef: Required value"}},
		"glusterfs":          {`glusterfs: {endpoints: "", path: ""}`, []string{"v.glusterfs.endpoints: Required value", "v.glusterfs.path: Required value"}},
		"flocker":            {`flocker: {datasetName: a, datasetUUID: b}`, []string{`v.flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously`}},
		"rbd":                {`rbd: {monitors: [], image: ""}`, []string{"v.rbd.monitors: Required value", "v.rbd.image: Required value"}},
		"fc":                 {`fc: {targetWWNs: [a], wwids: [b], lun: 1}`, []string{`v.fc.targetWWNs: Invalid value: ["a"]: targetWWNs and wwids can not be specified simultaneously`}},
		"fc without lun":     {`fc: {targetWWNs: [a]}`, []string{"v.fc.lun: Required value: lun is required if targetWWNs is specified"}},
		"flex":               {`flexVolume: {driver: d, options: {a.k8s.io/x: y}}`, []string{`v.flexVolume.options[a.k8s.io/x]: Invalid value: "a.k8s.io/x": kubernetes.io and k8s.io namespaces are reserved`}},
		"azure disk":         {`azureDisk: {diskName: d, diskURI: ftp, kind: Shared, cachingMode: Maybe}`, []string{`v.azureDisk.cachingMode: Unsupported value: "Maybe": supported values: "None", "ReadOnly", "ReadWrite"`, `v.azureDisk.diskURI: Unsupported value: "ftp": supported values: "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"`}},
		"quobyte":            {`quobyte: {registry: nohost, volume: v}`, []string{`v.quobyte.registry: Invalid value: "nohost": must be a host:port pair or multiple pairs separated by commas`}},
		"scale io":           {`scaleIO: {gateway: "", system: s, volumeName: v, secretRef: {}}`, []string{"v.scaleIO.gateway: Required value"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := messages(validateVolumeSource(parse[corev1.VolumeSource](t, tc.source), field.NewPath("v")))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDottedSysctl(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.sem": "kernel.sem", "kernel/sem": "kernel.sem", "net/ipv4/conf/eth0.1/x": "net.ipv4.conf.eth0/1.x", "net.ipv4.conf.eth0/1.x": "net.ipv4.conf.eth0/1.x", "x": "x",
	} {
		if got := dottedSysctl(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestReplicationController(t *testing.T) {
	cases := map[string]struct {
		rc   string
		want []string
	}{
		"valid, with defaults": {`spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "x:1"}]}}}`, nil},
		"nothing":              {`spec: {}`, []string{"spec.selector: Required value", "spec.template: Required value"}},
		"foreign labels": {`spec: {selector: {a: c}, replicas: -1, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "x:1"}]}}}`, []string{
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0",
			"spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
		}},
		"deadline": {`spec: {template: {metadata: {labels: {a: b}}, spec: {activeDeadlineSeconds: 3, containers: [{name: c, image: "x:1"}]}}}`, []string{
			"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
		}},
		"ephemeral": {`spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "x:1"}], ephemeralContainers: [{name: e, image: "x:1"}]}}}`, []string{
			"spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template",
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			rc := parse[corev1.ReplicationController](t, tc.rc)
			defaultReplicationController(rc)
			if diff := cmp.Diff(tc.want, messages(validateReplicationController(rc))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}
