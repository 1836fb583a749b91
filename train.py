"""Train a policy: `python train.py --help` lists the choices, `conf/train.yaml` the defaults."""

from vqr1.cli.train import main

if __name__ == "__main__":
    main()
