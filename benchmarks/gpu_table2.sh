#!/bin/sh
# Table 2 of arXiv:2509.03503v1 at 10/90, in full, on a machine with a GPU: high-res-only (cosine), zowarmup, zowarmup-head.
#
#     sh benchmarks/gpu_table2.sh           # gpu_table2.toml, on CUDA
#     sh benchmarks/gpu_table2.sh trial     # gpu_table2_trial.toml, on the CPU: minutes, and says only that it works
#
# The same command goes on where it was stopped, and does nothing where all is done. Of the extras it needs what reads
# CIFAR-10, pyarrow and pillow. Variables, each with its default:
#
#     SEEDS=0                run seeds, separated by commas
#     DATA=data/cifar10      the folder that `zowarmup fetch cifar10` fills
#     OUT=runs/gpu-table2    runs, and the page compare.html; runs/gpu-table2-trial for a trial
#     DEVICE=cuda            cpu for a trial
#     PYTHON=python          with zowarmup installed
#
# Zeroth-order forward passes stay fp32: TF32 keeps 11 bits, and from a weight of 1/8 on its steps are wider than a probe of
# eps x tau = 7.5e-5. First-order rounds use TF32.
set -eu

here=$(dirname "$0")
case "${1-}" in
    "") suite=gpu_table2 out=runs/gpu-table2 device=cuda ;;
    trial) suite=gpu_table2_trial out=runs/gpu-table2-trial device=cpu ;;
    *)
        echo "gpu_table2.sh: $1: expected nothing or trial" >&2
        exit 2
        ;;
esac

exec "${PYTHON:-python}" -m zowarmup compare "$here/$suite.toml" \
    --seeds "${SEEDS:-0}" --out "${OUT:-$out}" --set data.path="${DATA:-data/cifar10}" \
    --workers 1 --device "${DEVICE:-$device}"
