"""Which names somebody may have meant who gave one that there is not.

Not here: keys that have been renamed (`renamed.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

ELSEWHERE = {
    "beta": "loss.kl_weight",
    "epochs": "max_epochs",
    "epsilon": "loss.clip",
    "labels": "dataset.label_file",
    "learning_rate": "optimizer.lr",
    "max_completion_length": "rollout.sampling.max_new_tokens",
    "model_name_or_path": "model.path",
    "num_generations": "grpo.group_size",
    "num_train_epochs": "max_epochs",
    "output_dir": "run_dir",
    "per_device_train_batch_size": "loader.batch_size",
    "steps": "max_steps",
}
"""What other trainers call a key, by the last part of its name."""

_MOST = 3
_LIKE = 0.7
"""Similarity (`difflib`) from which a name may be the one that was meant."""
_LIKE_BESIDE = 0.6
"""The same of the last part, where the rest of the name is right."""


def near_keys(key: str, known: Collection[str]) -> list[str]:
    """Dotted keys that may have been meant, the likeliest first; at most three.

    >>> near_keys("lr", ["optimizer.lr", "seed"]), near_keys("max_step", ["max_steps", "seed"])
    (['optimizer.lr'], ['max_steps'])
    """
    parent, _, last = key.rpartition(".")
    meant = ELSEWHERE.get(last)
    if meant in known and meant is not None:
        return [meant]
    beside = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == parent}
    found = [beside[name] for name in _near(last, beside, _LIKE_BESIDE) if parent]
    found += [one for name, one in beside.items() if parent and last in name]
    same = [one for one in known if one.rpartition(".")[2] == last]
    found += difflib.get_close_matches(key, same, n=_MOST, cutoff=0)
    if not found and not (parent and beside):
        found = _near(key, known, _LIKE)
    if not found and not parent:
        parts = {one.rpartition(".")[2]: one for one in known}
        found = [parts[name] for name in _near(last, parts, _LIKE)]
    return list(dict.fromkeys(found))[:_MOST]


def _near(name: str, names: Iterable[str], least: float) -> list[str]:
    """The names most like one; those much less like it than the first are not meant."""
    like = {one: difflib.SequenceMatcher(None, one, name).ratio() for one in names}
    best = max(like.values(), default=0.0)
    kept = [one for one, ratio in like.items() if ratio >= max(least, best - 0.1)]
    return sorted(kept, key=lambda one: -like[one])[:_MOST]


def did_you_mean(names: Iterable[str]) -> str:
    """`did you mean a, b or c?`; empty without a name."""
    *first, last = [*names] or [""]
    return f"did you mean {' or '.join(filter(None, (', '.join(first), last)))}?" if last else ""
