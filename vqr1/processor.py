"""What the processor is and which instructions it has.

Not here: memory and cores (`vqr1.process_memory`, `vqr1.distributed.hardware`).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Instructions that multiply bfloat16 matrices, as Linux names them on x86 and Arm."""


@cache
def processor() -> tuple[frozenset[str], str, str]:
    """Instruction sets, maker and name of the processor, where the system states them."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset(), "", platform.processor() or platform.machine()
    rows = [line.partition(":") for line in path.read_text(encoding="utf-8").splitlines()]
    values = {key.strip(): value.strip() for key, _, value in rows}
    flags = values.get("flags", values.get("Features", ""))
    name = values.get("model name", platform.machine())
    return frozenset(flags.split()), values.get("vendor_id", ""), name


def multiplies_bfloat16() -> bool:
    """Whether products of bfloat16 matrices are faster here than of float32 ones."""
    return bool(processor()[0] & _BFLOAT16)
