//go:build !services

package main

// servers are the stores on servers; see services_test.go.
var servers []place
