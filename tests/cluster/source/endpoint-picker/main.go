// The endpoint picker of the gateway API's inference extension, as its own cmd/epp has it: that one
// cannot be installed by its version where a proxy does not list a module's versions.
package main

import (
	"os"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/gateway-api-inference-extension/cmd/epp/runner"
)

func main() {
	if err := runner.NewRunner().Run(ctrl.SetupSignalHandler()); err != nil {
		os.Exit(1)
	}
}
