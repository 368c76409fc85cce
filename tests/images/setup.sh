#!/bin/sh
# What building and running the images' CPU variants takes on Debian, as root: podman, its configuration, and a base
# image of Ubuntu 24.04 (which vLLM's own image has too) that takes the place of a registry's python:3.12-slim.
#
#     tests/images/setup.sh FOLDER      writes FOLDER/containers.conf and FOLDER/pip.conf; loads localhost/croco-python
#
# What is there already is left as it is.
set -eu

folder=$1
base=localhost/croco-python:3.12
keyring=http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb
keyring_sha256=36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8

mkdir -p "$folder"
cd "$folder"

if ! { command -v podman && command -v runc && command -v debootstrap; } > /dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends podman buildah runc conmon fuse-overlayfs containernetworking-plugins \
    iptables netavark aardvark-dns catatonit golang-github-containers-common debootstrap > /dev/null
fi

# Where process limits cannot be raised, and control groups are of version 1, podman's own defaults fail.
cat > containers.conf << 'END'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
[network]
default_subnet = "10.189.0.0/24"
END
export CONTAINERS_CONF="$PWD/containers.conf"

# Only a build that stands behind a proxy of this machine needs it: the proxy's certificate is among the host's.
cat > pip.conf << 'END'
[global]
cert = /run/host-certificates.crt
disable-pip-version-check = true
root-user-action = ignore
END

if ! podman image exists "$base"; then
  curl --fail --silent --show-error --output keyring.deb "$keyring"
  echo "$keyring_sha256  keyring.deb" | sha256sum --check --quiet
  dpkg --extract keyring.deb keyring
  rm -rf rootfs
  debootstrap --variant=minbase --components=main,universe --include=ca-certificates,python3,python3-pip \
    --keyring="$PWD/keyring/usr/share/keyrings/ubuntu-archive-keyring.gpg" noble rootfs \
    http://archive.ubuntu.com/ubuntu /usr/share/debootstrap/scripts/gutsy > debootstrap.log
  # As in the registry's image: pip may install.
  rm -rf rootfs/usr/lib/python3.12/EXTERNALLY-MANAGED rootfs/var/cache/apt rootfs/var/lib/apt/lists
  tar -C rootfs -c . | podman import --quiet - "$base" > /dev/null
  rm -rf rootfs
fi
