"""`train.py` on a machine without vLLM and NCCL: the same command, with what stands in for them.

Its own processes are started by this file too.
"""

import sys

from tests.support import vllm_transport
from vqr1.cli import launch
from vqr1.cli.train import main

if __name__ == "__main__":
    vllm_transport.install()
    launch._TRAIN = (sys.executable, __file__)
    main()
