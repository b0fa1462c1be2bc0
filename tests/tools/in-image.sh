#!/bin/sh
# Runs the operator of an unpacked image as a container would: in its own root, which
# cannot be written to, as the image's user, without capabilities. Runs inside the
# tests' own namespaces, so what is mounted here goes with them.
#
# IMAGE_ROOT is the unpacked image; KUBECONFIG is made readable inside.
set -eu

mount --bind "$IMAGE_ROOT" "$IMAGE_ROOT"
mount -t tmpfs tmpfs "$IMAGE_ROOT/tmp"
cp "$KUBECONFIG" "$IMAGE_ROOT/tmp/kubeconfig"
chown 65532:65532 "$IMAGE_ROOT/tmp/kubeconfig"
mount -o remount,bind,ro "$IMAGE_ROOT"
if touch "$IMAGE_ROOT/written" 2>/dev/null; then
    echo "the root can be written to" >&2
    exit 1
fi
export KUBECONFIG=/tmp/kubeconfig
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
    chroot --userspec=65532:65532 --groups= "$IMAGE_ROOT" \
    /usr/local/bin/catalog-mesh-controller "$@"
