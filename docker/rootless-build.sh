#!/usr/bin/env bash
# Builds the images that need no CUDA where there is no container engine, and leaves their root file systems in a folder:
# debootstrap makes a Debian with Python, buildah runs docker/Dockerfile on it in a chroot.
#
#   docker/rootless-build.sh [--work FOLDER] [--volume FROM:TO[:ro]]... [--build-arg NAME=VALUE]... [TARGET...]
#   targets: cpu (the default), eval
#
# It wants root (of a container or virtual machine; debootstrap and chroot do), and Debian's packages buildah and
# debootstrap. FOLDER/TARGET/rootfs is the tree of an image, FOLDER/TARGET/image.json how it is started.
# Debian comes from DEBIAN_MIRROR, where that is set, by the release DEBIAN_SUITE (bookworm). STORAGE_DRIVER=vfs is for where
# the kernel mounts no overlays: it copies the whole tree for every line of the Dockerfile (30 GB, and a minute a line).
# CMAKE_BUILD_PARALLEL_LEVEL, where that is set, is how many files are compiled at once.
# Behind a mirror, or a proxy with a certificate of its own: --volume mounts what the machine has while commands run, as in
#   --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro --volume /etc/pip.conf:/etc/pip.conf:ro
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=/var/tmp/calibox-images  # outside of the checkout, which builders of wheels walk through
suite=${DEBIAN_SUITE:-bookworm}
volumes=()
arguments=()
targets=()
while (($#)); do
    case $1 in
        --work) work=$2; shift 2 ;;
        --volume) volumes+=(--volume "$2"); shift 2 ;;
        --build-arg) arguments+=(--build-arg "$2"); shift 2 ;;
        -*) echo "error: $1 is no option; the head of $0 names them" >&2; exit 2 ;;
        *) targets+=("$1"); shift ;;
    esac
done
((${#targets[@]})) || targets=(cpu)
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "error: $tool is not here; on Debian: apt-get install $tool" >&2; exit 1; }
done
((EUID == 0)) || { echo "error: debootstrap and chroot need root" >&2; exit 1; }
mkdir -p "$work"
work=$(cd "$work" && pwd)

build() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"; }

# The stand-ins for python:*-slim and python:*, made once for each release of Debian.
runtime=localhost/python-runtime:$suite
compile=localhost/python-build:$suite
if ! build inspect --type image "$runtime" >/dev/null 2>&1; then
    rm -rf "$work/debian"
    debootstrap --variant=minbase --include=ca-certificates,python3,python-is-python3 \
        "$suite" "$work/debian" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    # As Debian's own slim images: without manuals, translations and package lists.
    rm -rf "$work"/debian/usr/share/{doc,info,lintian,locale,man} "$work"/debian/var/{cache/apt,lib/apt/lists,log}/*
    container=$(build from scratch)
    build add --quiet "$container" "$work/debian" /
    build config --cmd python3 --env LANG=C.UTF-8 "$container"
    build commit --quiet --rm "$container" "$runtime"
    rm -rf "$work/debian"
fi
if ! build inspect --type image "$compile" >/dev/null 2>&1; then
    container=$(build from "$runtime")
    build run --isolation chroot "${volumes[@]}" "$container" -- sh -c \
        'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends g++ make python3-dev python3-pip python3-venv'
    # Debian's pip would not install beside Debian's packages; in a stage of a build there is nothing to break.
    build config --env PIP_BREAK_SYSTEM_PACKAGES=1 --env PIP_ROOT_USER_ACTION=ignore "$container"
    build commit --quiet --rm "$container" "$compile"
fi

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for target in "${targets[@]}"; do
    # Docker's format, since OCI's knows no health check. Layers are kept, so that what is the same is made once.
    build build --isolation chroot --format docker --layers "${volumes[@]}" --file docker/Dockerfile --target "$target" \
        --build-arg "PYTHON_IMAGE=$runtime" --build-arg "BUILD_IMAGE=$compile" --build-arg "REVISION=$revision" \
        ${CMAKE_BUILD_PARALLEL_LEVEL:+--build-arg "CMAKE_BUILD_PARALLEL_LEVEL=$CMAKE_BUILD_PARALLEL_LEVEL"} \
        "${arguments[@]}" --tag "localhost/calibox:$target" .
    container=$(build from "localhost/calibox:$target")
    rm -rf "${work:?}/$target"
    mkdir -p "$work/$target"
    cp --archive "$(build mount "$container")" "$work/$target/rootfs"
    build rm "$container" >/dev/null
    build inspect --type image "localhost/calibox:$target" >"$work/$target/image.json"
done
build images
