#!/usr/bin/env bash
# The runs of this study, one after the other; each takes some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
for seed in 1 2 3; do
  python train.py logger.experiment=demo_learning seed=$seed
done
for reward in fidelity_shuffled mse format; do
  python train.py logger.experiment=demo_learning reward=$reward logger.run_name="demo/$reward/seed1"
done
python scripts/plot_curves.py demo_learning --output experiments/demo_learning
