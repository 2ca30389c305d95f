package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func init() {
	components["kubelet"] = run(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) })
	components["fakegpu-plugin"] = func() { fakeGPUMain(os.Args) }
}
