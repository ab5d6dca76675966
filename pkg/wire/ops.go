package wire

import (
	"fmt"
	"strconv"
)

// MaxOps bounds the operations that one connection may subscribe to; goim has
// no bound.
const MaxOps = 1024

// ParseOps parses the body of Sub and Unsub: decimal int32 numbers with
// commas between them and nothing else, as goim writes them.
func ParseOps(body []byte) ([]Op, error) {
	if len(body) == 0 {
		return nil, fmt.Errorf("wire: no operation given, allowed is a list like 1000,1001")
	}
	var ops []Op
	for start := 0; start <= len(body); {
		end := start
		for end < len(body) && body[end] != ',' {
			end++
		}
		n, err := strconv.ParseInt(string(body[start:end]), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("wire: %.32q is not an operation, allowed is a list like 1000,1001", body[start:end])
		}
		if len(ops) == MaxOps {
			return nil, fmt.Errorf("wire: more than %d operations", MaxOps)
		}
		ops = append(ops, Op(n))
		start = end + 1
	}
	return ops, nil
}
