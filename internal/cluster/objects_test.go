package cluster

import "testing"

func TestDecode(t *testing.T) {
	all, err := Decode([]byte("---\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n# nothing\n---\n" +
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`))
	if err != nil || len(all) != 2 || all[0].GetName() != "a" || all[1].GetKind() != "Pod" {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"kind: Service\n", "metadata: {name: a}\n", "a: [\n"} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q is read without an error", bad)
		}
	}
}
