package httpapi

import (
	"errors"
	"net/url"
	"strconv"
)

// query reads parameters as gin 1.7 binds them for goim: the first value of a
// name counts, "" is 0 for a number, and what is malformed is named in the
// order of the fields, before what is missing.
type query struct {
	values  url.Values
	err     error // of the first malformed number
	missing []error
}

func newQuery(u *url.URL) *query { return &query{values: u.Query()} }

// failed is the error of the whole binding.
func (q *query) failed() error {
	if q.err != nil {
		return q.err
	}
	if len(q.missing) > 0 {
		return errors.Join(q.missing...) // one a line, as validator does
	}
	return nil
}

func (q *query) number(name string, bits int) int64 {
	return q.parse(q.values.Get(name), bits)
}

func (q *query) parse(value string, bits int) int64 {
	if value == "" || q.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(value, 10, bits)
	if err != nil {
		q.err = err
		return 0
	}
	return n
}

func (q *query) numbers(name string, bits int) []int64 {
	values := q.values[name]
	list := make([]int64, 0, len(values))
	for _, v := range values {
		list = append(list, q.parse(v, bits))
	}
	return list
}

// require notes a missing parameter under the name of goim's struct field.
// Zero values count as missing: operation=0 is refused.
func (q *query) require(field string, there bool) {
	if !there {
		q.missing = append(q.missing, errors.New("Key: '"+field+"' Error:Field validation for '"+field+"' failed on the 'required' tag"))
	}
}
