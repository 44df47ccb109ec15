# The image is the static binary and nothing else.
#
#   docker build -t vipd:0.1.0 --build-arg IMAGE=registry.example/vipd --build-arg TAG=0.1.0 .

# Any Debian with Rust, a C compiler (for ring) and glibc's static library will do.
ARG BUILDER=rust:1.95-bookworm

FROM ${BUILDER} AS build
# What the image will be called: `sample manifest` prints it, so that nobody has to edit the manifest.
ARG IMAGE=vipd
ARG TAG=latest
WORKDIR /src
COPY . .
# The second name is what commands and manifests made for kube-vip call.
RUN binary=$(VIPD_IMAGE="$IMAGE" VIPD_TAG="$TAG" .ci/build-static) \
 && mkdir /image \
 && cp "$binary" /image/vipd \
 && ln -s vipd /image/kube-vip

FROM scratch
COPY --from=build /image/ /
ENTRYPOINT ["/vipd"]
