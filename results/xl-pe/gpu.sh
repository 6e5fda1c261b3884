#!/usr/bin/env bash
# All arms of a prepared study side by side on one GPU, then the table: bash results/xl-pe/gpu.sh FOLDER [PROCESSES]
# FOLDER is what `longspan xlpe prepare` has written (about 10 MB; eflomal is needed there alone, the pairs named in
# its study.yaml here too). Estimated, not measured: 8,000 steps of about 25 ms are 200 seconds an arm where it has the GPU
# to itself; the ten arms of one seed side by side take about ten minutes. SEED=0 trains that seed alone. An arm that is
# stopped goes on by the same command.
set -euo pipefail
folder=$1 processes=${2:-10}
names() { python -c "import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))['$1'], sep='\n')" "$folder/study.yaml"; }
for seed in ${SEED:-$(names seeds)}; do
    for arm in $(names arms); do
        echo "$seed $arm"
    done
done | OMP_NUM_THREADS=1 xargs -P "$processes" -L 1 bash -c \
    'longspan xlpe train "$0" --seed "$1" --arm "$2" --device cuda -q' "$folder"
longspan xlpe evaluate "$folder" --device cuda -q
