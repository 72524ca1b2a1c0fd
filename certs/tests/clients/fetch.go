// A client as small as they get: Go's own TLS and its own idea of the system's roots, which is what containerd,
// dockerd and podman are made of.
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	response, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(response.Status)
}
