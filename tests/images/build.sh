#!/bin/sh
# Build the images' CPU variants with what setup.sh made.
#
#     tests/images/build.sh FOLDER [cpu gpu euroeval]      TORCH_INDEX=URL names another index of PyTorch's wheels
set -eu
folder=$(cd "$1" && pwd)
shift
export CONTAINERS_CONF="$folder/containers.conf"
cd "$(dirname "$0")/../.."
python3 images/build.py "$@" --variant cpu --engine podman -- \
  --quiet --build-arg PYTHON=localhost/croco-python:3.12 ${TORCH_INDEX:+--build-arg TORCH_INDEX="$TORCH_INDEX"} \
  --volume /etc/ssl/certs/ca-certificates.crt:/run/host-certificates.crt:ro --volume "$folder/pip.conf:/etc/pip.conf:ro"
podman images --filter reference=croco-* --format '{{.Repository}}:{{.Tag}} {{.Size}}'
