package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// registration keeps one instance registered.
type registration struct {
	instance *registry.ServiceInstance // a copy, never changed
	form     url.Values
	stop     chan struct{} // closed: send nothing more
	stopOnce sync.Once
	tried    chan struct{} // closed: the first attempt is over
	done     chan struct{} // closed: nothing more is sent
	now      chan struct{} // renew without waiting; capacity 1

	mu        sync.Mutex
	confirmed time.Time // when a server last agreed; zero: never
	err       error     // of the last attempt
}

// Register waits for the first attempt, or for ctx, and when no server answered
// leaves the rest to the background; Ready tells when it worked. It returns an
// error only for an instance that cannot be registered, and after Close.
// Registering an ID again replaces its metadata and endpoints.
func (d *Directory) Register(ctx context.Context, service *registry.ServiceInstance) error {
	form, err := encode(service)
	if err != nil {
		return fmt.Errorf("discovery: register: %w", err)
	}
	r := &registration{
		instance: directory.Clone(service),
		stop:     make(chan struct{}),
		tried:    make(chan struct{}),
		done:     make(chan struct{}),
		now:      make(chan struct{}, 1),
	}
	r.form = d.identify(r.instance)
	maps.Copy(r.form, form)
	id := key{service.Name, service.ID}
	if err := d.install(ctx, id, r); err != nil {
		return fmt.Errorf("discovery: register %s: %w", service, err)
	}
	select {
	case <-r.tried:
	case <-ctx.Done():
	}
	refused := (*codeError)(nil)
	switch err := r.lastError(); {
	case errors.As(err, &refused):
		if err := d.retire(context.WithoutCancel(ctx), id, r); err != nil {
			return err
		}
		return fmt.Errorf("discovery: register %s: %w", service, err)
	case d.life.Err() != nil:
		return ErrClosed
	case err != nil || ctx.Err() != nil:
		d.log.Warn("registration waits for a discovery server", "service", service.Name, "id", service.ID)
	}
	return nil
}

// install makes r the registration of the ID and starts it, after the one
// before has ended.
func (d *Directory) install(ctx context.Context, id key, r *registration) error {
	for {
		d.mu.Lock()
		old := d.registrations[id]
		switch {
		case d.closed:
			d.mu.Unlock()
			return ErrClosed
		case old == nil:
			d.registrations[id] = r
			d.wg.Go(func() { d.keep(r) })
			d.mu.Unlock()
			return nil
		}
		d.mu.Unlock()
		if err := d.retire(ctx, id, old); err != nil {
			return err
		}
	}
}

// Deregister ends the renewals first, so that none can register again what is
// cancelled. An instance the server does not know is deregistered.
func (d *Directory) Deregister(ctx context.Context, service *registry.ServiceInstance) error {
	if service == nil {
		return errors.New("discovery: deregister: no instance")
	}
	id := key{service.Name, service.ID}
	d.mu.Lock()
	r := d.registrations[id]
	d.mu.Unlock()
	if r != nil {
		if err := d.retire(ctx, id, r); err != nil {
			return fmt.Errorf("discovery: deregister %s: %w", service, err)
		}
	}
	a, err := d.client.post(ctx, pathCancel, d.identify(service))
	if err == nil && a.code != codeNotFound {
		err = a.err(pathCancel)
	}
	if err != nil {
		return fmt.Errorf("discovery: deregister %s: %w", service, err)
	}
	return nil
}

// Ready is nil when every registration stands: a server agreed to it at least
// once, and at most three renew intervals ago.
func (d *Directory) Ready() error {
	if d.life.Err() != nil {
		return ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, r := range d.registrations {
		if err := r.stands(3 * d.cfg.RenewInterval); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *registration) stands(within time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	if err == nil {
		err = errors.New("the attempt is under way")
	}
	switch {
	case r.confirmed.IsZero():
		return fmt.Errorf("discovery: %s is not registered yet: %w", r.instance, err)
	case time.Since(r.confirmed) > within:
		return fmt.Errorf("discovery: %s was last renewed %v ago: %w", r.instance, time.Since(r.confirmed).Round(time.Second), err)
	}
	return nil
}

func (r *registration) lastError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// halt makes the goroutine of the registration end.
func (r *registration) halt() { r.stopOnce.Do(func() { close(r.stop) }) }

// retire ends a registration at this end: when it returns nil, nothing is sent
// for it any more. The request under way is not cut off, because the server may
// serve it all the same, after the one that the caller sends next.
func (d *Directory) retire(ctx context.Context, id key, r *registration) error {
	r.halt()
	select {
	case <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.forget(id, r)
	return nil
}

func (d *Directory) forget(id key, r *registration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.registrations[id] == r {
		delete(d.registrations, id)
	}
}

// keep registers and renews until the registration is halted or the directory
// is closed.
func (d *Directory) keep(r *registration) {
	defer close(r.done)
	d.attempt(r)
	close(r.tried)
	var wait backoff
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if r.lastError() != nil {
			timer.Reset(wait.next())
		} else {
			wait.reset()
			timer.Reset(d.cfg.RenewInterval - mathrand.N(d.cfg.RenewInterval/10))
		}
		select {
		case <-timer.C:
		case <-r.now:
		case <-r.stop:
			return
		case <-d.life.Done():
			return
		}
		d.attempt(r)
	}
}

// attempt renews or, when the server does not know the instance, registers. The
// outcome stays in r; that a server does not answer is logged by the client.
func (d *Directory) attempt(r *registration) {
	err := d.renew(d.life, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil {
		r.confirmed = time.Now()
	}
}

func (d *Directory) renew(ctx context.Context, r *registration) error {
	r.mu.Lock()
	everStood := !r.confirmed.IsZero()
	r.mu.Unlock()
	if everStood {
		a, err := d.client.post(ctx, pathRenew, d.identify(r.instance))
		if err != nil || a.code != codeNotFound {
			return errors.Join(err, a.err(pathRenew))
		}
		d.log.Warn("discovery server forgot a registration, registering again", "service", r.instance.Name, "id", r.instance.ID)
	}
	a, err := d.client.post(ctx, pathRegister, r.form)
	return errors.Join(err, a.err(pathRegister))
}

// renewAll makes every registration be renewed now.
func (d *Directory) renewAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.registrations {
		select {
		case r.now <- struct{}{}:
		default:
		}
	}
}

// identify returns the parameters that name an instance.
func (d *Directory) identify(service *registry.ServiceInstance) url.Values {
	return url.Values{
		"region":   {d.cfg.Region},
		"zone":     {d.cfg.Zone},
		"env":      {d.cfg.Env},
		"appid":    {service.Name},
		"hostname": {service.ID},
	}
}
