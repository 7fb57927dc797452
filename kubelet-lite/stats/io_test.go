package stats

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestDiskIO(t *testing.T) {
	sys := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755))
	must(t, os.Symlink("../../devices/virtual/sda", filepath.Join(sys, "dev/block/8:0")))
	for name, c := range map[string]struct {
		files map[string]string
		want  []Device
	}{
		"version 1": {
			map[string]string{
				"blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n",
				"blkio.throttle.io_serviced":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
			},
			[]Device{{"/dev/sda", 4096, 8192, 1, 2}},
		},
		"version 2":              {map[string]string{"io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"}, []Device{{"/dev/sda", 4096, 8192, 1, 2}}},
		"a device without name":  {map[string]string{"io.stat": "253:1 rbytes=1 wbytes=0 rios=1 wios=0\n"}, []Device{{"253:1", 1, 0, 1, 0}}},
		"nothing done, no lines": {map[string]string{"io.stat": ""}, nil},
		"no account":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			group := t.TempDir()
			for file, text := range c.files {
				must(t, os.WriteFile(filepath.Join(group, file), []byte(text), 0o600))
			}
			if diff := cmp.Diff(c.want, diskIO(group, sys)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPressure(t *testing.T) {
	proc := t.TempDir()
	must(t, os.Mkdir(filepath.Join(proc, "pressure"), 0o755))
	must(t, os.WriteFile(filepath.Join(proc, "pressure/io"), []byte("some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=234\n"), 0o600))
	want := &statsapi.PSIStats{Some: statsapi.PSIData{Total: 1234, Avg10: 1.5, Avg60: .25}, Full: statsapi.PSIData{Total: 234, Avg10: .5}}
	if diff := cmp.Diff(want, nodePressure(proc, "io")); diff != "" {
		t.Error(diff)
	}
	if got := nodePressure(proc, "cpu"); got != nil {
		t.Errorf("a kernel that does not count it: %v", got)
	}
	from := &runtimeapi.PsiStats{Some: &runtimeapi.PsiData{Total: 1234, Avg10: 1.5, Avg60: .25}, Full: &runtimeapi.PsiData{Total: 234, Avg10: .5}}
	if diff := cmp.Diff(want, psi(from)); diff != "" {
		t.Error(diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
