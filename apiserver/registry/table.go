package registry

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/apis/resource"
)

// table prints objects by the columns of their row.
type table struct {
	columns     []resource.Column[resource.Object]
	definitions []metav1.TableColumnDefinition
	conditions  func(resource.Object) []metav1.TableRowCondition // of a row; nil: none
	order       func(a, b resource.Object) int                   // of the rows; nil: the list's
}

func newTable(row *resource.Resource) *table {
	t := &table{columns: row.Columns, conditions: row.RowConditions, order: row.RowOrder}
	if t.columns == nil {
		t.columns = resource.Columns[resource.Object]()
	}
	for _, c := range t.columns {
		definition := metav1.TableColumnDefinition{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
		}
		if definition.Type == "" {
			definition.Type = "string"
		}
		t.definitions = append(t.definitions, definition)
	}
	return t
}

// ConvertToTable implements rest.TableConvertor for an object and for a list.
func (t *table) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || o == nil || !o.NoHeaders {
		out.ColumnDefinitions = t.definitions
	}
	if meta.IsListType(obj) {
		out.Rows = make([]metav1.TableRow, 0, meta.LenList(obj))
		err := meta.EachListItem(obj, func(item runtime.Object) error { return t.add(out, item) })
		if err != nil {
			return nil, err
		}
		if t.order != nil {
			slices.SortStableFunc(out.Rows, func(a, b metav1.TableRow) int {
				return t.order(a.Object.Object.(resource.Object), b.Object.Object.(resource.Object))
			})
		}
	} else if err := t.add(out, obj); err != nil {
		return nil, err
	}
	if list, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion, out.Continue = list.GetResourceVersion(), list.GetContinue()
		out.RemainingItemCount = list.GetRemainingItemCount()
	} else if single, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = single.GetResourceVersion()
	}
	return out, nil
}

func (t *table) add(out *metav1.Table, obj runtime.Object) error {
	typed, ok := obj.(resource.Object)
	if !ok {
		return fmt.Errorf("print %T: no API object", obj)
	}
	row := metav1.TableRow{Cells: make([]any, len(t.columns)), Object: runtime.RawExtension{Object: obj}}
	for i, c := range t.columns {
		row.Cells[i] = cell(c.Get(typed))
	}
	if t.conditions != nil {
		row.Conditions = t.conditions(typed)
	}
	out.Rows = append(out.Rows, row)
	return nil
}

// cell turns a value into what JSON knows: a Table is copied as JSON values.
func cell(v any) any {
	switch v := v.(type) {
	case nil, string, bool, int64, float64:
		return v
	case fmt.Stringer:
		return v.String()
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32:
		return r.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return int64(r.Uint())
	case reflect.String:
		return r.String()
	case reflect.Bool:
		return r.Bool()
	case reflect.Float32:
		return r.Float()
	case reflect.Pointer:
		if r.IsNil() {
			return nil
		}
		return cell(r.Elem().Interface())
	default:
		return fmt.Sprint(v)
	}
}
