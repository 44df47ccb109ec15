# The image is the static binary and nothing else.
#
#   docker build -t vipd:0.1.0 --build-arg IMAGE=registry.example/vipd --build-arg TAG=0.1.0 .
#
# For another architecture, BuildKit runs the build there: docker buildx build --platform linux/arm64 … on a host or an emulator of
# that architecture. Without one, and where the same sources have to give the same image id, .ci/image cross-compiles and
# writes the image itself.

# Any Debian with Rust, a C compiler (for ring) and glibc's static library will do.
ARG BUILDER=rust:1.95-bookworm

FROM ${BUILDER} AS build
# What the image will be called: `sample manifest` prints it, so that nobody has to edit the manifest.
ARG IMAGE=vipd
ARG TAG=latest
# The time of the files, in seconds since 1970. BuildKit takes it for the image's own time too.
ARG SOURCE_DATE_EPOCH=0
# BuildKit sets it; the classic builder doesn't, and builds for its own machine.
ARG TARGETARCH
WORKDIR /src
COPY . .
# The second name is what commands and manifests made for kube-vip call.
RUN binary=$(VIPD_IMAGE="$IMAGE" VIPD_TAG="$TAG" .ci/build-static $TARGETARCH) \
 && mkdir /image \
 && cp "$binary" /image/vipd \
 && ln -s vipd /image/kube-vip \
 && touch -h -d "@$SOURCE_DATE_EPOCH" /image/vipd /image/kube-vip /image

FROM scratch
# What the image says of itself: who builds it knows. What is not told stays empty.
ARG VERSION
ARG REVISION
ARG SOURCE
ARG CREATED
LABEL org.opencontainers.image.title="vipd" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /image/ /
ENTRYPOINT ["/vipd"]
