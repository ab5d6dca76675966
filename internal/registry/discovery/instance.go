package discovery

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// instance is how the API writes an instance.
type instance struct {
	Region    string            `json:"region"`
	Zone      string            `json:"zone"`
	Env       string            `json:"env"`
	AppID     string            `json:"appid"`
	Hostname  string            `json:"hostname"`
	Addrs     []string          `json:"addrs"`
	Version   string            `json:"version"`
	Metadata  map[string]string `json:"metadata"`
	RegTime   int64             `json:"reg_timestamp"`
	LatestChg int64             `json:"latest_timestamp"`
}

// encode writes the form of a registration, or says why it cannot be one.
func encode(i *registry.ServiceInstance) (url.Values, error) {
	if i == nil || i.ID == "" || i.Name == "" {
		return nil, errors.New("an instance needs an ID and a name")
	}
	if len(i.Endpoints) == 0 {
		return nil, errors.New("an instance needs an endpoint")
	}
	for _, endpoint := range i.Endpoints {
		// Servers join the endpoints with commas when they tell each other.
		if endpoint == "" || strings.Contains(endpoint, ",") {
			return nil, fmt.Errorf("endpoint %q: empty or with a comma", endpoint)
		}
	}
	metadata := maps.Clone(i.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	delete(metadata, directory.MetaUpdated)
	text, err := json.Marshal(metadata)
	if err != nil {
		return nil, err
	}
	return url.Values{
		"status":   {statusUp},
		"addrs":    i.Endpoints,
		"version":  {i.Version},
		"metadata": {string(text)},
	}, nil
}

// decode reads a list of a service.
func decode(service string, node int, data []byte) (list, error) {
	var info struct {
		Instances map[string][]*instance `json:"instances"` // by zone
		Timestamp int64                  `json:"latest_timestamp"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return list{}, fmt.Errorf("instances of %s: %w", service, err)
	}
	var all []*instance
	for _, zone := range info.Instances {
		for _, i := range zone {
			if i != nil && i.Hostname != "" {
				all = append(all, i)
			}
		}
	}
	slices.SortFunc(all, func(a, b *instance) int { return cmp.Compare(b.RegTime, a.RegTime) })
	l := list{instances: make([]*registry.ServiceInstance, 0, len(all)), timestamp: info.Timestamp, node: node}
	owned := make(map[string]bool) // gRPC addresses, the newest instance first
	for _, i := range all {
		converted := i.convert(service)
		if address := directory.GRPCAddress(converted); address != "" {
			if owned[address] {
				continue
			}
			owned[address] = true
		}
		l.instances = append(l.instances, converted)
	}
	directory.Sort(l.instances)
	return l, nil
}

func (i *instance) convert(service string) *registry.ServiceInstance {
	metadata := map[string]string{
		directory.MetaRegion:  i.Region,
		directory.MetaZone:    i.Zone,
		directory.MetaEnv:     i.Env,
		directory.MetaUpdated: strconv.FormatInt(i.LatestChg, 10),
	}
	maps.Copy(metadata, i.Metadata)
	var endpoints []string
	for _, joined := range i.Addrs {
		endpoints = append(endpoints, strings.Split(joined, ",")...)
	}
	return &registry.ServiceInstance{ID: i.Hostname, Name: service, Version: i.Version, Metadata: metadata, Endpoints: endpoints}
}
