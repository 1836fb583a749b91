"""`train.py` on a machine without vLLM and NCCL: the same command, with what stands in for them.

Its own processes are started by this file too, because a launcher runs the file that it is.
"""

from tests.support import vllm_transport
from vqr1.cli.train import main

if __name__ == "__main__":
    vllm_transport.install()
    main()
