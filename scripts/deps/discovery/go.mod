// The registry server that the tests run. A module of its own, so that the
// product does not depend on the server and its old dependencies.
module github.com/perseid-im/perseid/scripts/discovery

go 1.26.0

tool github.com/bilibili/discovery/cmd/discovery

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/beorn7/perks v1.0.1
	github.com/bilibili/discovery v1.2.0
	github.com/cespare/xxhash/v2 v2.3.0
	github.com/fsnotify/fsnotify v1.6.0
	github.com/go-kratos/kratos v0.6.0
	github.com/go-playground/locales v0.12.1
	github.com/go-playground/universal-translator v0.16.0
	github.com/gogo/protobuf v1.3.2
	github.com/golang/protobuf v1.5.4
	github.com/leodido/go-urn v1.1.0
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822
	github.com/pkg/errors v0.8.1
	github.com/prometheus/client_golang v1.25.0
	github.com/prometheus/client_model v0.6.3
	github.com/prometheus/common v0.72.0
	github.com/prometheus/procfs v0.22.0
	github.com/shirou/gopsutil v2.19.11+incompatible
	github.com/sirupsen/logrus v1.5.0
	golang.org/x/sync v0.23.0
	golang.org/x/sys v0.48.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	gopkg.in/go-playground/validator.v9 v9.29.1
	gopkg.in/yaml.v2 v2.2.8
)
