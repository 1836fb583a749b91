"""Export a training's checkpoint: `python scripts/export.py run=best`; see `docs/export.md`."""

from vqr1.cli.export import main

if __name__ == "__main__":
    main()
