"""`train.py` on a machine without vLLM and NCCL: the same command, with what stands in for them.

Its own processes are started by this file too.
"""

import sys

from tools.faults import vllm_transport
from vqr1.cli import train

if __name__ == "__main__":
    sys.argv[0] = "train.py"
    vllm_transport.install()
    train.COMMAND = (sys.executable, __file__)
    train.main()
