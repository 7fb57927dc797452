package script

import "testing"

func TestByText(t *testing.T) {
	const first = `  - apiVersion: v1
    fieldsV1:
      f:spec: {}
    manager: kubectl
`
	const second = `  - apiVersion: apps/v1
    fieldsV1:
      f:status:
        k:{"type":"Ready"}: {}
    manager: controller
    subresource: status
`
	object := func(managed string) string {
		return "metadata:\n  managedFields:\n" + managed + "  name: web\nspec:\n  - apiVersion: z\n"
	}
	a, b := byText(object(first+second)), byText(object(second+first))
	if a != b || a != object(second+first) {
		t.Errorf("sorted:\n%s\nand:\n%s", a, b)
	}
	if other := byText(object(first)); other == a {
		t.Error("a missing entry makes no difference")
	}
}

func TestMessageBeforeItsStream(t *testing.T) {
	const said = "E1130 07:14:18.354528   31234 websocket.go:296] Unknown stream id 1, discarding message\nerror: absent\n"
	if got := withoutChance(said, "ns"); got != "error: absent\n" {
		t.Errorf("left: %q", got)
	}
}
