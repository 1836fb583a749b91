"""What the settings of the ranking do, on a policy so small that a training takes a second.

    python experiments/real_vlm/simulate.py --data DIR --model FOLDER --features DIR2

The policy is a network of one hidden layer from the tower's features (mean and standard deviation
over the cells, 300 principal components) to a softmax over the scores 1.0, 1.1, ... 5.0. It starts
by supervised steps on a number that agrees with the MOS in part, as a warm start's answers do, and
then learns by the project's own reward, advantages and falling KL: K sampled scores of B images a
step, Adam with linear decay. What a pretrained language model adds is missing; what rates,
KL, clipping and the number of images do is not. Each setting is run with eight seeds; the table
(`simulated.md`) states SRCC on BIQ2021's test images of the mean of six sampled scores, the mean
and the least of the seeds, and of the expected score; the standard deviation of an image's scores;
and the least and the greatest mean of all scores of a seed.

Not here: the real model (`study.py`), the ridge on the same features (`ridge.py`).
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from features import parse_arguments, read_features  # noqa: E402

from vqr1.iqa.correlation import srcc  # noqa: E402
from vqr1.iqa.thurstone import fidelity_reward  # noqa: E402
from vqr1.training.advantages.group_normalised import group_advantages  # noqa: E402
from vqr1.training.advantages.shift_free import without_common_shift  # noqa: E402
from vqr1.training.losses.falling import falling_share  # noqa: E402

GRID = torch.arange(10, 51) / 10.0
HIDDEN, COMPONENTS, SEEDS, SAMPLES = 128, 300, 8, 6


@dataclass(frozen=True)
class Images:
    """What the policy is trained and tested on.

    Attributes:
        train: [N, D] features.
        mos: [N] on [1, 5].
        test: [M, D] features.
        test_mos: [M].
    """

    train: Tensor
    mos: Tensor
    test: Tensor
    test_mos: Any


@dataclass(frozen=True)
class Setting:
    """One row of the table; the defaults are the study's recipe.

    Attributes:
        name: what it changes.
        steps: ranking steps.
        batch: B.
        group: K.
        floor: least variance of an image's scores.
        divided: advantages are divided by the group's standard deviation.
        shift_free: advantages without what would move all scores alike.
        kl: weight of the KL to the start.
        until: share of the steps at which it is 0; None keeps it.
        rate: peak learning rate.
        clip: greatest norm of a gradient.
        start: mean of the numbers that the policy is taught before.
    """

    name: str
    steps: int = 310
    batch: int = 24
    group: int = 6
    floor: float = 1.0
    divided: bool = False
    shift_free: bool = True
    kl: float = 0.04
    until: float | None = 0.75
    rate: float = 0.007
    clip: float = 0.04
    start: float = 3.0


RECIPE = Setting("the recipe")
CENTRED = replace(
    RECIPE, name="16 images, centred, no clipping, KL .02 to 0 at .5", batch=16, shift_free=False,
    clip=10.0, kl=0.02, until=0.5,
)  # fmt: skip
SETTINGS = (
    RECIPE,
    replace(RECIPE, name="no clipping", clip=10.0),
    replace(RECIPE, name="not shift-free", shift_free=False),
    replace(RECIPE, name="KL .02 to 0 at .5", kl=0.02, until=0.5),
    replace(RECIPE, name="KL .02 to the end", kl=0.02, until=None),
    replace(RECIPE, name="no KL", kl=0.0),
    CENTRED,
    replace(CENTRED, name="the same, 200 steps", steps=200),
    replace(CENTRED, name="16 images, centred, no clipping, no KL", kl=0.0),
    replace(
        CENTRED,
        name="16 images, published: own variances, divided, KL .04 to the end, no clipping",
        floor=0.0, divided=True, kl=0.04, until=None,
    ),
    replace(RECIPE, name="variances at least .25", floor=0.25),
    replace(RECIPE, name="variances at least 4", floor=4.0),
    *(replace(RECIPE, name=f"rate x {x:g}", rate=x * RECIPE.rate) for x in (0.25, 0.5, 2, 4)),
    replace(RECIPE, name="K = 4, 36 images (as many answers)", group=4, batch=36),
    replace(RECIPE, name="K = 8, 18 images (as many answers)", group=8, batch=18),
    replace(RECIPE, name="16 images, 465 steps (as many answers)", batch=16, steps=465),
    replace(RECIPE, name="32 images, 232 steps (as many answers)", batch=32, steps=232),
    replace(RECIPE, name="16 images", batch=16),
    replace(RECIPE, name="32 images", batch=32),
    *(replace(RECIPE, name=f"a start of mean {x}", start=x) for x in (3.9, 4.3)),
)  # fmt: skip


def images_of(features: Any) -> Images:
    """Principal components of the features, and MOS min-max to [1, 5]."""
    train, test = (features[split].forms()["mean_and_deviation"] for split in ("train", "test"))
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, test = (train - mean) / std, (test - mean) / std
    components = np.linalg.svd(train, full_matrices=False)[2][:COMPONENTS].T
    train, test = train @ components, test @ components
    scale = train.std(axis=0).mean()
    mos, test_mos = features["train"].mos, features["test"].mos
    low, high = min(mos.min(), test_mos.min()), max(mos.max(), test_mos.max())
    return Images(
        torch.from_numpy(train / scale).float(),
        torch.from_numpy(1 + 4 * (mos - low) / (high - low)).float(),
        torch.from_numpy(test / scale).float(),
        test_mos,
    )


def warm_start(images: Images, mean: float, steps: int = 300, agreement: float = 0.45) -> nn.Module:
    """A policy that states a number which correlates with the MOS by `agreement`, with noise."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    features = images.train.shape[1]
    policy = nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, len(GRID)))
    other = images.train @ torch.randn(features, generator=draw)
    other, quality = ((x - x.mean()) / x.std() for x in (other, images.mos))
    stated = mean + 0.75 * (agreement * quality + (1 - agreement**2) ** 0.5 * other)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(0, len(stated), (64,), generator=draw)
        label = (stated[rows] + 0.4 * torch.randn(64, generator=draw)).clamp(1, 5)
        target = torch.softmax(-((GRID - label[:, None]) ** 2) / (2 * 0.1**2), dim=1)
        loss = -(target * policy(images.train[rows]).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def rank(start: nn.Module, images: Images, setting: Setting, seed: int) -> nn.Module:
    """The policy after `setting.steps` steps of ranking."""
    policy = copy.deepcopy(start)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=setting.rate)
    for step in range(setting.steps):
        optimizer.param_groups[0]["lr"] = setting.rate * (1 - step / setting.steps)
        rows = torch.randperm(len(images.train), generator=draw)[: setting.batch]
        logprobs = policy(images.train[rows]).log_softmax(1)
        with torch.no_grad():
            answers = torch.multinomial(logprobs.exp(), setting.group, True, generator=draw)
            scores = GRID[answers]
            rewards = fidelity_reward(scores, images.mos[rows], variance_floor=setting.floor)
            advantages = group_advantages(rewards, normalise_std=setting.divided)
            if setting.shift_free:
                advantages = without_common_shift(advantages, scores)
        chosen = logprobs.gather(1, answers)
        loss = -(advantages * chosen).mean()
        share = falling_share(step, setting.steps, setting.until)
        if setting.kl * share > 0:
            with torch.no_grad():
                reference = start(images.train[rows]).log_softmax(1).gather(1, answers)
            ratio = reference - chosen
            loss = loss + setting.kl * share * (ratio.exp() - ratio - 1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), setting.clip)
        optimizer.step()
    return policy


@torch.no_grad()
def tested(policy: nn.Module, images: Images) -> tuple[float, float, float, float]:
    """SRCC of six samples' mean and of the expectation, standard deviation, mean of all scores."""
    probabilities = policy(images.test).softmax(1)
    draw = torch.Generator().manual_seed(0)
    scores = GRID[torch.multinomial(probabilities, SAMPLES, True, generator=draw)]
    return (
        srcc(scores.mean(1).numpy(), images.test_mos),
        srcc((probabilities * GRID).sum(1).numpy(), images.test_mos),
        float(scores.std(1).mean()),
        float(scores.mean()),
    )


def row(runs: list[tuple[float, float, float, float]]) -> str:
    """Cells of the table for what `tested` gives of several seeds."""
    six, expected, std, mean = np.array(runs).T
    return (
        f"{six.mean():.3f}, {six.min():.3f} | {expected.mean():.3f} | {std.mean():.2f} "
        f"| {mean.min():.2f} to {mean.max():.2f}"
    )


def main() -> None:
    """Command line."""
    given = parse_arguments(__doc__)
    torch.set_num_threads(1)
    images = images_of(read_features(given.data, given.model, given.features))
    starts = {setting.start: warm_start(images, setting.start) for setting in SETTINGS}
    lines = [
        "| setting | SRCC, mean of six: mean, least | of the expectation | std of answers "
        "| means of all scores |",
        "|---|---|---|---|---|",
    ]
    lines.append(f"| the start | {row([tested(starts[RECIPE.start], images)])} |")
    for setting in SETTINGS:
        start = starts[setting.start]
        runs = [tested(rank(start, images, setting, seed), images) for seed in range(SEEDS)]
        lines.append(f"| {setting.name} | {row(runs)} |")
        print(lines[-1], flush=True)
    (HERE / "simulated.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
