#!/bin/sh
# Builds an older version of the operator for `make upgrade`, and prints the folder
# with its program and its manifests.
set -eu
cd "$(dirname "$0")/../.."

commit=$(git rev-parse --verify --quiet "$1^{commit}") || {
    echo "this clone has no commit $1; a shallow one needs: git fetch --unshallow" >&2
    exit 1
}
folder="$PWD/target/upgrade/$commit"
if [ ! -x "$folder/catalog-mesh-controller" ]; then
    rm -rf "$folder"
    mkdir -p "$folder/source"
    git archive "$commit" | tar -x -C "$folder/source"
    # All older versions share what they can of the build.
    (cd "$folder/source" && cargo build --locked --bin catalog-mesh-controller \
        --target-dir ../../target >&2)
    install target/upgrade/target/debug/catalog-mesh-controller "$folder/"
fi
echo "$folder"
