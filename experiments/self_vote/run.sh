#!/usr/bin/env bash
# The runs of this study, one after the other, and what is read off them; a run takes some minutes on one core.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=()
for seed in 1 2 3; do
  run="outputs/self_vote/seed$seed"
  runs+=("$run")
  [ -f "$run/summary.json" ] && continue
  if [ -f "$run/run.json" ]; then
    python train.py resume="$run"
  else
    python train.py target=self_vote votes.by=scores votes.count=32 votes.pairs_per_image=250 \
      dataset.max_images=1000 max_steps=100 validation.every_steps=100 validation.max_images=64 \
      hardware.threads=1 loader.workers=0 logger=csv seed=$seed run_dir="$run"
  fi
done
python experiments/self_vote/summarise.py "${runs[@]}"
