// Package ext takes the place of a module inside Traefik's repository that no module proxy serves: the hook by which builds of Traefik add
// fields to its configuration. This one adds none.
package ext

// HTTP are further fields of the HTTP configuration.
type HTTP struct{}

// Router are further fields of a router.
type Router struct{}
