"""A download of a small set, killed at random moments and given again, until it ends.

    python scripts/download_faults.py --kills 20

The server is a real one on the loopback address. Prints how often the command was killed, and exits
with 1 unless the folder ends complete, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.faults.killed_download import kill_downloads  # noqa: E402


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A download that is killed and continued.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_downloads(Path(folder), options.kills, options.seed)
    ended = "complete" if found.complete else "NOT complete"
    print(
        f"{found.kills} kills, {found.finished} ended before; last exit code {found.code}; {ended}"
    )
    sys.exit(0 if found.complete and found.code == 0 else 1)


if __name__ == "__main__":
    main()
