// Package openapi holds the OpenAPI definitions of every served type, generated from the Go types by `make generate`.
package openapi
