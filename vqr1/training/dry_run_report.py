"""What a dry run found, and how it is printed beside the plan.

Not here: the run (`dry_run.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vqr1.planning.device_counts import Phase
from vqr1.planning.memory import MemoryPlan

STEP = "decoding step"
"""Phase of what is recorded as a graph: one token of all responses."""

PHASES = {
    "rollout": ("vision", "prefill", "decoding", "drawing", "capture", STEP, "scoring"),
    "reference": ("reference", "reference weights"),
    "update": ("update",),
    "optimiser": ("optimiser",),
}
"""Counted phases by the planner's."""


@dataclass(frozen=True)
class DryRun:
    """What a step asked of the device.

    Attributes:
        phases: counts by phase, see `PHASES`.
        tokens: decoding steps that were taken.
        captures: graphs that were recorded.
        layers: of the text model.
        images: B.
    """

    phases: dict[str, Phase]
    tokens: int
    captures: int
    layers: int
    images: int

    def peak(self, planned: str) -> int:
        """Most bytes of one of the planner's phases."""
        return max((self.phases[n].peak for n in PHASES[planned] if n in self.phases), default=0)

    @property
    def launches_of_layer(self) -> float:
        """Launches of a decoding step by layer; those outside of the layers are counted in."""
        return self.phases[STEP].launches.total() / self.layers


def print_dry_run(found: DryRun, plan: MemoryPlan) -> None:
    """A table of phases: memory beside the plan, launches, traffic, host waits, exchanges."""
    print(f"{'MiB, without the context':<26}{'planned':>10}{'dry run':>10}{'ratio':>7}")
    for name in PHASES:
        terms = [
            sum(value for key, value in plan.phases[phase].items() if key != "process")
            for phase in (name, *(["tower's update"] if name == "update" else []))
            if phase in plan.phases
        ]
        counted = found.peak(name) / 2**20
        if terms and counted:
            planned = max(terms) / 2**20
            print(f"  {name:<24}{planned:>10,.0f}{counted:>10,.0f}{planned / counted:>7.2f}")
    print(
        f"{'phase':<26}{'launches':>10}{'of them casts':>15}{'GB moved':>10}{'host waits':>12}"
        f"{'GB exchanged':>14}"
    )
    for name, phase in found.phases.items():
        print(
            f"  {name:<24}{phase.launches.total():>10,}{phase.launches['cast']:>15,}"
            f"{phase.traffic / 1e9:>10,.1f}{phase.waits:>12}{phase.bytes['exchange'] / 1e9:>14,.1f}"
        )
        for place, count in phase.syncs.most_common(3):
            print(f"      {count} x {place}")
        for place, count in phase.mixed.most_common(3):
            print(f"      {count} x on the wrong device: {place}")
    print(
        f"a decoding step: {found.launches_of_layer:.1f} launches a layer, "
        f"{found.phases[STEP].traffic / 1e9:.1f} GB; {found.captures} graphs for {found.tokens} "
        "tokens"
    )
