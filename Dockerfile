# The operator, alone on a base without a shell.
#
#   docker build -t registry.example.org/catalog-mesh-controller:0.2.0 .
#
# Both bases can be replaced, for a mirror or another libc: they have to have the
# same one. `make image-check` builds on bases of its own, and tries the result.
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
ARG PROFILE=release
# Built alone, without what the tests ask of its crates, and with no path in it of
# where it was built, as `make release` does. Sources and half-built crates stay on
# the machine that builds, and in no layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    RUSTFLAGS="--remap-path-prefix=/src=/source --remap-path-prefix=/target=/source/target --remap-path-prefix=/usr/local/cargo=/cargo" \
    CFLAGS="-ffile-prefix-map=/src=/source -ffile-prefix-map=/target=/source/target -ffile-prefix-map=/usr/local/cargo=/cargo" \
    cargo install --locked --path . --bin catalog-mesh-controller \
        --profile "${PROFILE}" --target-dir /target --root /out --no-track

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/bin/catalog-mesh-controller /usr/local/bin/catalog-mesh-controller
# One pool of memory, of which what is free goes back at once: the operator allocates
# little at a time, and a pool for each thread would keep more free than it uses.
ENV MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072
# Of nobody who owns anything; deploy/10-deployment.yaml names the same.
USER 65532:65532
# --listen
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/catalog-mesh-controller"]
CMD ["run"]
