"""Evaluate a model: `python eval.py --help` lists the choices, `conf/eval.yaml` the defaults."""

from vqr1.cli.evaluate import main

if __name__ == "__main__":
    main()
