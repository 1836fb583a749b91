"""The stages of a training (`conf/stage`): what is done with a batch of images.

| stage | a step |
|---|---|
| `grpo` (`grpo.py`) | samples responses, rewards them, and updates the policy |
| `sft` (`sft.py`) | learns to write given responses, or soft labels over words of levels |
| `distill` (`distill.py`) | teaches a scorer without a language model what the policy answers |

A stage of your own is a subclass of `Stage` and of `StageModule` (`module.py`), in one module, and
a YAML file with its `_target_` (docs/extending.md). The classes here are light: their Lightning
modules are imported by the run that needs them.
"""

from vqr1.training.stages.base import Stage, StageParts, build_stage
from vqr1.training.stages.distill_stage import DistillStage
from vqr1.training.stages.grpo_stage import GrpoStage
from vqr1.training.stages.sft_stage import SftStage

__all__ = ["DistillStage", "GrpoStage", "SftStage", "Stage", "StageParts", "build_stage"]
