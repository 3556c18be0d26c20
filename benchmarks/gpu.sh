#!/bin/sh
# What the design is worth on one GPU, in ten minutes. Needs Python 3.11, torch and transformers; see benchmarks/gpu.py.
#   benchmarks/gpu.sh --scale 3b --out gpu.json        another Python: PYTHON=/path/to/python benchmarks/gpu.sh
set -eu
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
