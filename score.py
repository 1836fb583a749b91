"""Score images: `python score.py PATHS...`; `--help` lists more, `conf/score.yaml` the defaults."""

from vqr1.cli.score import main

if __name__ == "__main__":
    main()
