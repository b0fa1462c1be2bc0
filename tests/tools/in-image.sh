#!/bin/sh
# Runs the operator of an unpacked image as a container would: in its own root, which
# cannot be written to, as the image's user, without capabilities, with the files of
# a service account and no kubeconfig. Runs inside the tests' own namespaces, so what
# is mounted here goes with them.
#
# IMAGE_ROOT is the unpacked image; KUBECONFIG has the token of the service account.
set -eu

mount --bind "$IMAGE_ROOT" "$IMAGE_ROOT"
mount -t tmpfs tmpfs "$IMAGE_ROOT/tmp"
account="$IMAGE_ROOT/var/run/secrets/kubernetes.io/serviceaccount"
mkdir -p "$account"
mount -t tmpfs tmpfs "$account"
python3 - "$KUBECONFIG" "$account" <<'END'
import base64, json, pathlib, sys
config, folder = json.load(open(sys.argv[1])), pathlib.Path(sys.argv[2])
authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
(folder / "ca.crt").write_bytes(base64.b64decode(authority))
(folder / "token").write_text(config["users"][0]["user"]["token"])
(folder / "namespace").write_text("aikernel-infrastructure")
END
mount -o remount,bind,ro "$IMAGE_ROOT"
if touch "$IMAGE_ROOT/written" 2>/dev/null; then
    echo "the root can be written to" >&2
    exit 1
fi
unset KUBECONFIG
# The address of the tests' API server.
export KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT=6443
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
    chroot --userspec=65532:65532 --groups= "$IMAGE_ROOT" \
    /usr/local/bin/catalog-mesh-controller "$@"
