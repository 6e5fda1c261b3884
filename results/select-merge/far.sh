#!/usr/bin/env bash
# Passkeys far out, by a model of window 256 that was never trained with select-and-merge (see ../select-merge-choice).
#
#     export LONGSPAN_DATA=...    # holds bases/base-0, which `longspan train ../select-merge-choice/base.yaml` makes
#     bash results/select-merge/far.sh OUT.jsonl LENGTHS DEPTHS TRIALS
#
# From the repository's root; a length that OUT holds is left out. One thread, so that lengths can run side by side.
set -euo pipefail
out=$(realpath -m "$1")
root=$PWD
cd "$LONGSPAN_DATA" # so that records name no path of the machine
export OMP_NUM_THREADS=1 PYTHONPATH=$root
method="select_merge(region=12,top=21,merge=1,positions='selected',rating='bound',follow=true,local=6,sinks=1)"
[ -d bases/base-0-far ] || longspan extend bases/base-0/checkpoint --method "$method" --target-length 4m --out bases/base-0-far
python -m benchmarks.far bases/base-0-far --lengths "$2" --depths "$3" --trials "$4" --out "$out"
