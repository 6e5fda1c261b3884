#!/usr/bin/env bash
# Every task on one small model of window 256: as it is, and extended to four times its window by YaRN and by NTK.
#
#     export LONGSPAN_DATA=...    # holds books/validation and eval/ (the external sets)
#     bash results/evaluation/suite/measure.sh MODEL OUT [ARM...]
#
# MODEL is a folder inside LONGSPAN_DATA, so that records name no path of the machine. A second call goes on.
set -euo pipefail
model=$1
out=$(realpath -m "$2")
arms=${*:3}
cd "$LONGSPAN_DATA"

losses=perplexity,position,context_gain,wikitext
needles=needle,niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,niah_multikey_3,niah_multivalue
leval=$(printf ',leval_%s' coursera gsm100 quality sci_fi tpo financial_qa gov_report_summ multidoc_qa news_summ \
    patent_summ scientific_qa tv_show_summ)

measure() { # NAME [OPTIONS]: one arm
    local arm=$1
    shift
    run() { longspan eval "$model" --out "$out/$arm" --quiet "$@"; }
    run "$@" --lengths 256,512,1k --tasks "$losses,passkey,copying,induction,$needles,vt,fwe,qa,qa_1,qa_2" \
        --text books/validation --max-targets 512 --data eval --trials 2 --depths 5
    run "$@" --lengths 1k --tasks niah_multiquery,lambada --trials 2 --depths 5 --data eval --max-samples 100
    run "$@" --lengths 2k --tasks cwe --trials 2 --depths 5
    run "$@" --lengths 2k --tasks "longbench$leval,loogle,longeval_topics" --data eval --max-samples 2 --overlong cut
    run "$@" --lengths 16k --tasks longeval_lines,key_values --depths 5 --data eval --max-samples 2
}

for arm in ${arms:-plain yarn ntk}; do
    case $arm in
    plain) measure plain ;;
    yarn) measure yarn --extend "yarn(beta_fast=9.2)" --target-length 1k ;;
    ntk) measure ntk --extend ntk --target-length 1k ;;
    esac
done
