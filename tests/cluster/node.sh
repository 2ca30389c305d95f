# Runs as the first process of a node, in a pid and mount namespace of its own: with it everything
# that the node started ends, and every mount goes. Its arguments are in the environment.
set -eu

mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock
mount --bind "$NODE/varlog" /var/log
# The device manager's path is fixed, whatever --root-dir says: each node has one of its own.
mkdir -p /var/lib/kubelet
mount --bind "$NODE/kubelet" /var/lib/kubelet
# kubelet wants these sysctls, and would set them for the whole machine: let it see them as set.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    shown=/run/sysctl-$(echo "${setting%=*}" | tr / -)
    echo "${setting#*=}" > "$shown"
    mount --bind "$shown" "/proc/sys/${setting%=*}"
done
# crun refuses the hybrid mode of cgroups where the second version has controllers.
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi

containerd --config "$NODE/containerd.toml" > "$NODE/containerd.log" 2>&1 &
until ctr --address "$NODE/containerd.sock" version > "$NODE/ctr.log" 2>&1; do sleep 0.1; done
for image in "$IMAGES"/*.tar; do
    ctr --address "$NODE/containerd.sock" --namespace k8s.io images import "$image"
done

"$KUBE_ALL" kubelet --config="$NODE/kubelet.yaml" --kubeconfig="$NODE/kubelet.kubeconfig" \
    --root-dir="$NODE/kubelet" --cert-dir="$NODE/kubelet/pki" --hostname-override="$NAME" \
    --node-labels="$LABELS" > "$NODE/kubelet.log" 2>&1 &

if [ -f "$NODE/devices.json" ]; then
    until [ -d "$NODE/kubelet/plugins_registry" ]; do sleep 0.1; done
    "$KUBE_ALL" fakegpu-plugin --kubeconfig="$NODE/plugin.kubeconfig" --node="$NAME" \
        --devices="$NODE/devices.json" --cdi-dir="$NODE/cdi" --kubelet-root="$NODE/kubelet" \
        > "$NODE/fakegpu.log" 2>&1 &
fi
wait
