#!/bin/sh
# Builds the image as the Dockerfile says, on bases made here of Debian's packages,
# and starts the operator from what comes of it. `make image-check` calls it.
#
# Neither a registry nor a container engine is needed: buildah builds, and the
# unpacked image runs against the tests' cluster in place of the program that cargo
# built. Needs root, and buildah and debootstrap (Debian's packages of that name).
#
# PROFILE=dev builds in a minute or two instead of ten; the sizes mean nothing then.
set -eu
cd "$(dirname "$0")/../.."

profile=${PROFILE:-release}
work="$PWD/target/image"
build_base=localhost/catalog-mesh-check/build
runtime_base=localhost/catalog-mesh-check/runtime
image=localhost/catalog-mesh-check/controller
# Works in a container too, where little can be mounted.
export BUILDAH_ISOLATION=chroot
# The check's images stay in the target folder, with all else.
export CONTAINERS_STORAGE_CONF="$work/storage.conf"

for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "please install $tool" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "please run this as root" >&2; exit 2; }

say() { printf '%s\n' "$*" >&2; }

# A base, made once: NAME and the command that fills its root.
base() {
    if buildah inspect --type image "$1" >/dev/null 2>&1; then
        return
    fi
    say "making $1"
    container=$(buildah from scratch)
    root=$(buildah mount "$container")
    "$2" "$root" "$container"
    buildah umount "$container" >/dev/null
    buildah commit --quiet --rm "$container" "$1" >/dev/null
}

# What the image of Rust has, but for Rust itself, which is mounted: a C compiler.
fill_build() {
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$1" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
    mkdir -p "$1/usr/local/cargo" "$1/usr/local/rust" "$1/vendor"
    cp "$work/cargo-config.toml" "$1/usr/local/cargo/config.toml"
    buildah config --env CARGO_HOME=/usr/local/cargo --env CARGO_NET_OFFLINE=true \
        --env PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin "$2"
}

# What distroless/cc has: glibc, libgcc, the authorities, and a user. No shell.
fill_runtime() {
    packages=$(mktemp -d "$work/packages.XXXXXX")
    (cd "$packages" && apt-get -o APT::Sandbox::User=root download --quiet libc6 libgcc-s1 ca-certificates >/dev/null)
    for package in "$packages"/*.deb; do
        dpkg-deb --extract "$package" "$1"
    done
    rm -r "$packages" "$1/usr/share/doc" "$1/usr/sbin"
    mkdir -p "$1/etc/ssl/certs" "$1/tmp" "$1/proc"
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >"$1/etc/passwd"
    echo 'nonroot:x:65532:' >"$1/etc/group"
}

mkdir -p "$work"
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "vfs"
graphroot = "$work/storage"
runroot = "$work/run"
END

say "fetching the sources of all crates"
cargo vendor --quiet --locked --versioned-dirs "$work/vendor" >/dev/null
cat >"$work/cargo-config.toml" <<'END'
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "/vendor"
END

base "$build_base" fill_build
base "$runtime_base" fill_runtime

say "building the image (profile $profile)"
buildah build --quiet --layers=false --file Dockerfile --tag "$image" \
    --build-arg "BUILD_IMAGE=$build_base" --build-arg "RUNTIME_IMAGE=$runtime_base" \
    --build-arg "PROFILE=$profile" \
    --volume "$work/vendor:/vendor:ro" \
    --volume "$(rustc --print sysroot):/usr/local/rust:ro" \
    . >/dev/null

# What a kubelet goes by.
buildah inspect --type image "$image" >"$work/image.json"
python3 - "$work/image.json" <<'END'
import json, sys
config = json.load(open(sys.argv[1]))["OCIv1"]["config"]
assert config["User"] == "65532:65532", config
assert config["Entrypoint"] == ["/usr/local/bin/catalog-mesh-controller"], config
assert config["Cmd"] == ["run"], config
END

rm -rf "$work/root"
container=$(buildah from "$image")
cp -a "$(buildah mount "$container")" "$work/root"
buildah rm "$container" >/dev/null

program="$work/root/usr/local/bin/catalog-mesh-controller"
for shell in bin/sh bin/bash usr/bin/sh usr/bin/dash; do
    [ ! -e "$work/root/$shell" ] || { say "there is a shell in the image: $shell"; exit 1; }
done
[ "$(stat -c '%u %a' "$program")" = "0 755" ] || { say "the program can be changed"; exit 1; }
own=$(stat -c %s "$program")
all=$(du -sb "$work/root" | cut -f1)
say "the program has $((own / 1000000)) MB, the image $((all / 1000000)) MB unpacked"
# glibc and the authorities have half of that.
if [ $((all - own)) -gt 30000000 ]; then
    say "more than 30 MB besides the program: what came in?"
    exit 1
fi
if [ "$profile" = release ] && [ "$own" -gt 40000000 ]; then
    say "more than 40 MB: what came in?"
    exit 1
fi

say "starting it against the cluster of the tests"
cargo build --locked --quiet --example catalog-server
IMAGE_ROOT="$work/root" OPERATOR="$PWD/tests/tools/in-image.sh" \
    cargo test --locked --test cluster an_entry_becomes_two_objects_and_a_change_of_it_arrives
