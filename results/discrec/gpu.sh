#!/usr/bin/env bash
# All runs of a study side by side on one GPU, then the table: bash results/discrec/gpu.sh STUDY.yaml OUT [PROCESSES]
# A step of models this small is mostly Python starting kernels, so that several processes share a GPU well.
set -euo pipefail
study=$1 out=$2 processes=${3:-8}
names() { python -c "import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))['$1'], sep='\n')" "$study"; }
for seed in $(names seeds); do
    for arm in $(names arms); do
        echo "$seed $arm"
    done
done | OMP_NUM_THREADS=1 xargs -P "$processes" -L 1 bash -c \
    'longspan discrec train "$0" --out "$1" --seed "$2" --arm "$3" --device cuda -q' "$study" "$out"
longspan discrec evaluate "$out" --batch 256 --device cuda -q
