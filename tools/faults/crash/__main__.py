"""Explore every scenario, or those of the class names given: `python -m tools.faults.crash`."""

from __future__ import annotations

import sys

from tools.faults.crash.explore import explore
from tools.faults.crash.scenarios import SCENARIOS


def main(names: list[str]) -> int:
    """Print one line a scenario and every violation; 1 where there is one."""
    results = [explore(kind()) for kind in SCENARIOS if not names or kind.__name__ in names]
    for result in results:
        print(
            f"{result.name}: {result.events} events, {result.states} states, "
            f"{len(result.violations)} violations, {result.seconds:.1f} s"
        )
        for violation in result.violations:
            print(f"  {violation}")
    print(f"{sum(result.states for result in results)} states of {len(results)} scenarios")
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
