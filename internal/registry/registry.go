// Package registry is the node directory: which comet and logic nodes exist and
// at which address. It holds the nouns and the configuration; the two
// directories behind kratos' registry interfaces are its sub-packages: static
// (addresses from the configuration or from DNS) and discovery
// (bilibili/discovery over HTTP). The choice between them is made where the
// process is wired, by Config.Kind.
//
// # Guarantees
//
// Both directories keep these, and registrytest checks them on both:
//
//   - An empty list is a state, not an error: GetService of a service without
//     instances answers an empty list, and a watcher reports that the last
//     instance left.
//   - The first Watcher.Next returns as soon as the state is known, even when
//     it is empty (kratos' interface only asks for it when it is not empty).
//     Every later Next returns when something changed, and always the whole
//     list, sorted by ID.
//   - A directory that does not answer is not an empty directory: GetService
//     returns an error, a watcher keeps what it last said and goes on trying.
//   - What is returned belongs to the caller.
//   - Watcher.Stop, the end of the context given to Watch, and Close wake Next,
//     which then returns the context's error.
//
// # Non-goals
//
// The directory does not decide who is alive. An instance that died without
// saying so may stay listed for an hour (bilibili/discovery) or for ever
// (static); liveness is the state of the gRPC connection and the node's lease.
package registry

import (
	"context"

	kregistry "github.com/go-kratos/kratos/v2/registry"
)

// Service names, used as kratos' ServiceInstance.Name and as the appid of
// bilibili/discovery.
const (
	Comet = "perseid.comet"
	Logic = "perseid.logic"
)

// Metadata keys that a directory adds to an instance it returns, unless the
// instance was registered with a value of its own.
const (
	MetaRegion = "region"
	MetaZone   = "zone"
	MetaEnv    = "env"
	// MetaUpdated is the time of the last change of the registration, in
	// nanoseconds of Unix time. A change of this value alone is no change.
	MetaUpdated = "latest_timestamp"
)

// Directory is what a process gets from the wiring. The cores name smaller
// interfaces where they use them.
type Directory interface {
	kregistry.Registrar
	kregistry.Discovery

	// Ready is nil when everything this process asked of the directory is in
	// force: its registrations stand, its host names were resolved.
	Ready() error

	// Close ends the registrations that are still there and wakes all watchers.
	// It is idempotent and leaves no goroutine behind.
	Close(ctx context.Context) error
}
