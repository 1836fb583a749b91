"""What the runs of this study voted and learned: `votes.csv`, `results.csv` and `votes.png`.

python experiments/self_vote/summarise.py RUN ...     # folders of finished runs, one a seed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vqr1.data.demo import ensure_demo_set
from vqr1.iqa.correlation import srcc
from vqr1.iqa.votes import majority_preference, order_agreement, votes_of_scores

FOLDER = Path(__file__).parent
COUNTS = (1, 2, 4, 8, 16, 32)
PAIRS = 5000


def votes_by_count(run: Path) -> pd.DataFrame:
    """What the votes by the first K scores of each image agree with; the kept answers know all."""
    mos = pd.read_csv(ensure_demo_set() / "dmos.csv")["dmos"].to_numpy()
    lines = [
        json.loads(line)
        for file in sorted((run / "votes/demo").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    scores = {line["row"]: line["scores"] for line in lines}
    rng = np.random.default_rng(0)
    pairs = [rng.choice(list(scores), 2, replace=False) for _ in range(PAIRS)]
    found = []
    for count in COUNTS:
        own = {row: [s for s in all_[:count] if s is not None] for row, all_ in scores.items()}
        scored = [row for row, values in own.items() if values]
        votes = np.array([votes_of_scores(own[i], own[j]) for i, j in pairs], dtype=float)
        preference = majority_preference(votes[:, 0], votes[:, 1])
        agreement = order_agreement(preference, *(mos[np.array(pairs).T]))
        means = np.array([np.mean(own[row]) for row in scored])
        found.append((count, agreement, srcc(means, mos[scored])))
    table = pd.DataFrame(found, columns=["scores", "agreement", "srcc"])
    return table.assign(seed=_seed(run))


def result(run: Path) -> dict[str, float]:
    """Test SRCC before and after training, with the gain's interval."""
    summary = json.loads((run / "summary.json").read_text())
    before, after = summary["test_srcc_before"], summary["test_srcc_after"]
    low, high = summary["test_srcc_gain_interval"]
    log = pd.read_csv(run / "metrics.csv")
    return {
        "seed": _seed(run), "mos_agreement": log["votes/mos_agreement/demo"].dropna().iat[0],
        "before": before, "after": after, "gain": after - before, "low": low, "high": high,
    }  # fmt: skip


def with_kept(name: str, new: pd.DataFrame) -> pd.DataFrame:
    """A table with the rows of other seeds that were there, whose runs may be gone; written."""
    file = FOLDER / name
    kept = pd.read_csv(file) if file.is_file() else new.iloc[:0]
    both = pd.concat([kept[~kept["seed"].isin(new["seed"])], new]).sort_values(
        "seed", kind="stable"
    )
    both.to_csv(file, index=False, float_format="%.4f")
    return both


def _seed(run: Path) -> int:
    return int(json.loads((run / "run.json").read_text())["config"]["seed"])


def plot(votes: pd.DataFrame) -> None:
    """Agreement and SRCC of the votes by the number of scores."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    for name, label in (("agreement", "pairs in the order of MOS"), ("srcc", "SRCC of mean score")):
        by_count = votes.groupby("scores")[name]
        axes.plot(by_count.mean(), marker="o", label=label)
        axes.fill_between(by_count.mean().index, by_count.min(), by_count.max(), alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("scores of an image before training")
    axes.legend(frameon=False)
    figure.savefig(FOLDER / "votes.png", dpi=120, bbox_inches="tight")


def main() -> None:
    """Read the runs named on the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("runs", nargs="+", type=Path)
    runs = options.parse_args().runs
    results = with_kept("results.csv", pd.DataFrame([result(run) for run in runs]))
    votes = with_kept("votes.csv", pd.concat([votes_by_count(run) for run in runs]))
    plot(votes)
    print(results.to_string(index=False), votes.to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
