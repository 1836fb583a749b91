"""What a training will need: memory in each phase, operations, time of a step (`vqr1.cli.plan`)."""

import sys

from vqr1.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
