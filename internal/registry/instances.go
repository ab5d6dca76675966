package registry

import (
	"cmp"
	"maps"
	"net/url"
	"slices"

	kregistry "github.com/go-kratos/kratos/v2/registry"
)

// Clone returns a deep copy.
func Clone(instance *kregistry.ServiceInstance) *kregistry.ServiceInstance {
	c := *instance
	c.Metadata = maps.Clone(instance.Metadata)
	c.Endpoints = slices.Clone(instance.Endpoints)
	return &c
}

// CloneAll returns a deep copy; it is never nil.
func CloneAll(instances []*kregistry.ServiceInstance) []*kregistry.ServiceInstance {
	all := make([]*kregistry.ServiceInstance, 0, len(instances))
	for _, i := range instances {
		all = append(all, Clone(i))
	}
	return all
}

// Sort orders by ID, then by zone, so that two answers can be compared.
func Sort(instances []*kregistry.ServiceInstance) {
	slices.SortFunc(instances, func(a, b *kregistry.ServiceInstance) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Metadata[MetaZone], b.Metadata[MetaZone]))
	})
}

// Same reports whether two sorted lists say the same, MetaUpdated aside.
// (ServiceInstance.Equal cannot be used: it reorders the endpoints in place.)
func Same(a, b []*kregistry.ServiceInstance) bool {
	return slices.EqualFunc(a, b, func(x, y *kregistry.ServiceInstance) bool {
		return x.ID == y.ID && x.Name == y.Name && x.Version == y.Version &&
			slices.Equal(x.Endpoints, y.Endpoints) && sameMetadata(x.Metadata, y.Metadata)
	})
}

func sameMetadata(a, b map[string]string) bool {
	return containsAll(a, b) && containsAll(b, a)
}

func containsAll(all, some map[string]string) bool {
	for k, v := range some {
		if k == MetaUpdated {
			continue
		}
		if got, ok := all[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// GRPCAddress returns the host:port of the first endpoint of the form
// grpc://host:port, or "".
func GRPCAddress(instance *kregistry.ServiceInstance) string {
	for _, endpoint := range instance.Endpoints {
		if u, err := url.Parse(endpoint); err == nil && u.Scheme == "grpc" {
			return u.Host
		}
	}
	return ""
}
