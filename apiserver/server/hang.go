package server

import (
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// hang adds to the stores what rows cannot say, and serves the subresources that are no plain part of an object.
func (c *config) hang(kinds kinds, served storages, server *genericapiserver.GenericAPIServer) error {
	return nil
}
