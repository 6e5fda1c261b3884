#!/usr/bin/env bash
# All arms of a study side by side on one GPU, then the matrix: bash results/hprompt-cpt/gpu.sh CPT.yaml OUT [PROCESSES]
# LONGSPAN_CPT names the folder that domains.py has made (20 MB). Further words go to every command, so that a part can be
# done at a time: bash results/hprompt-cpt/gpu.sh domains.yaml OUT 14 --seed 0 --set 'orders={first: [restaurant, ...]}'
# Estimated, not measured: one order and seed of the six domains are 40,000 steps of training and 66,000 of fine-tuning, 12
# to 30 ms each where a process has the GPU to itself: about 25 minutes of one process, ten of fourteen side by side. What is
# stopped goes on by the same command.
set -euo pipefail
config=$1 out=$2 processes=${3:-14}
shift 2
[ $# -eq 0 ] || shift
arms=$(python -c "import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))['arms'], sep='\n')" "$config")
each() { OMP_NUM_THREADS=1 xargs -P "$processes" -I {} longspan cpt "$@" --arm {} --device cuda -q <<<"$arms"; }
each train "$config" --out "$out" "$@"
each evaluate "$config" --out "$out" "$@"
longspan cpt evaluate "$config" --out "$out" --device cuda -q "$@"
