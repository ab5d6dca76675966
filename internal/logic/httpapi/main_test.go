package httpapi_test

import (
	"testing"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }
