"""Makes `f0df201.tar.xz`: what a user of commit f0df201 has on the disk.

Ran at that commit, in its own environment, from the top of its checkout:

    PYTHONPATH=. python /path/of/make_archive.py /path/of/f0df201.tar.xz

It cannot run at a later one: it uses that version's modules and keys, which have been renamed
since. The folder holds a labelled set, a random model of some 40,000 weights, one finished and one
stopped training, their export, a sweep of two jobs, an evaluation, a result file of `score.py` and
the MLflow database of all of them. Its absolute paths begin with `FOLDER`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from vqr1.policy.tiny import TinySize, build_tokenizer, random_tiny_model, save_policy_folder

FOLDER = Path("/tmp/vqr1_f0df201")
VOCABULARY = 290
SIZE = TinySize(
    hidden=16, layers=2, heads=2, kv_heads=1, feed_forward=32, vision_hidden=16, vision_depth=2,
    vision_heads=2, vision_feed_forward=32, window=56, initial_std=0.3,
)  # fmt: skip
MODEL = (
    "model.name=random", "model.path=model", "prompt=non_thinking", "model.min_pixels=3136",
    "model.max_pixels=3136",
)  # fmt: skip
SET = (
    *MODEL,
    "dataset=csv", "dataset.root=photos", "dataset.columns.reference=reference",
    "dataset.columns.std=std", "dataset.split.by=reference",
    "dataset.split.fractions=[0.5,0.25,0.25]", "loader.workers=0", "hardware.threads=1",
)  # fmt: skip
TRAINING = (
    *SET, "max_steps=3", "loader.images_per_batch=4", "grpo.group_size=2",
    "rollout.sampling.max_new_tokens=16", "validation.every_steps=1", "validation.samples=2",
    "validation.bootstrap_draws=20", "callbacks.checkpoint.keep=1",
    "callbacks.checkpoint.every_steps=1", "callbacks.progress=false", "logger.sample_answers=2",
)  # fmt: skip
# Keys that have been renamed since, with values of their own.
RENAMED = (
    "grpo.loss=token_mean", "grpo.clip=0.3", "grpo.kl_weight=0.1", "grpo.advantage_std=false",
)  # fmt: skip
MODE = ("mode=sampled", "mode.sampling.max_new_tokens=16")


def write_set(root: Path, references: int = 6, levels: int = 4) -> None:
    """A small set: coarse noise of rising strength over random colours."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,mos,std,reference"]
    for reference in range(1, references + 1):
        base = np.full((7, 7, 3), rng.integers(60, 200, 3))
        for level in range(1, levels + 1):
            name = f"I{reference:02d}_{level:02d}.png"
            noisy = (base + rng.normal(0, 12 * (level - 1) + 1, base.shape)).clip(0, 255)
            small = Image.fromarray(noisy.astype(np.uint8))
            small.resize((56, 56), Image.Resampling.NEAREST).save(root / "images" / name)
            rows.append(f"{name},{5 - level + 0.1 * reference:.2f},0.2,I{reference:02d}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def write_model(folder: Path) -> None:
    """A random model whose answers are `<answer>N</answer>` with a random digit.

    Its tokenizer holds bytes and the special tokens, and hardly more. Each token's embedding is so
    long that the layers, which are random, hardly change it, and the output head names the token
    that comes next; what they add chooses the digit.
    """
    tokenizer = build_tokenizer(["<answer>3</answer>"] * 9, VOCABULARY)
    model = random_tiny_model(tokenizer, SIZE)
    answer = tokenizer("<answer>3</answer>").input_ids
    digits = tokenizer("12345").input_ids
    assert len(digits) == 5
    middle = next(place for place, token in enumerate(answer) if token in digits)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding.mul_(8)
        key = embedding / embedding.square().mean(1, keepdim=True).sqrt()
        chain = [tokenizer("\n").input_ids[-1], *answer]
        for after in {*answer} - {*digits}:
            before = {first for first, second in pairwise(chain) if second == after}
            before = {*digits} if before & {*digits} else before
            head[after] = sum(key[token] for token in before)
        for digit in digits:
            noise = torch.randn(SIZE.hidden, generator=generator)
            head[digit] = key[answer[middle - 1]] + 0.7 * noise
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights < 100_000, weights
    print(f"{weights} weights")
    save_policy_folder(model, tokenizer, folder, SIZE)


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    checkout = Path.cwd()
    return subprocess.Popen(
        [sys.executable, str(checkout / script), *arguments],
        cwd=FOLDER, env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip


def run(script: str, *arguments: str) -> None:
    assert start(script, *arguments).wait() == 0, (script, arguments)


def stop_after_a_step(*arguments: str) -> None:
    training = start("train.py", *arguments, "run_dir=stopped")
    while not (FOLDER / "stopped/checkpoints/step_00000001.ckpt").exists():
        assert training.poll() is None
        time.sleep(0.005)
    training.send_signal(signal.SIGUSR1)
    assert training.wait() == 75


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_set(FOLDER / "photos")
    write_model(FOLDER / "model")
    run("train.py", *TRAINING, *RENAMED, "run_dir=run")
    stop_after_a_step(*TRAINING, *RENAMED, "max_steps=30")
    run("train.py", "-m", *TRAINING, "max_steps=1", "validation.test=false", "grpo.kl_weight=0.1",
        "reward=fidelity,mse", "seed=1", "hydra.sweep.dir=sweep")  # fmt: skip
    run("scripts/export.py", "run=run", "output=export")
    run("eval.py", *SET, *MODE, "model.path=export", "run_dir=evaluation", "report.plots=false",
        "figures.bootstrap_draws=50")  # fmt: skip
    run("score.py", "photos/images", *MODEL, *MODE, "output=scores.csv", "hardware.threads=1")
    assert "NaN" not in (FOLDER / "evaluation/metrics.json").read_text()
    pack(Path(sys.argv[1]))


def pack(archive: Path) -> None:
    """Pack the folder without plots and logs, nor the name of who made it and where."""
    for file in FOLDER.rglob("*"):
        if file.suffix in {".log", ".lock", ".png", ".webp"} and "photos" not in file.parts:
            file.unlink()
    with closing(sqlite3.connect(FOLDER / "mlflow.db")) as database, database:
        database.execute("update tags set value = 'train.py' where key = 'mlflow.source.name'")
        database.execute("update tags set value = 'user' where key = 'mlflow.user'")
        database.execute("update runs set user_id = 'user'")
    with closing(sqlite3.connect(FOLDER / "mlflow.db")) as database:
        database.execute("vacuum")
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(FOLDER, arcname=".", filter=_nobody)


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
