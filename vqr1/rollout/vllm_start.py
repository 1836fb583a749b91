"""vLLM in this process: imported, started, and asked with images taken as they are.

Not here: a server (`vllm_client.py`), and what is asked (`vllm_requests.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vqr1.errors import ModelError
from vqr1.policy.families import Family
from vqr1.program import installing
from vqr1.rollout.messages import shortened


def import_vllm(who: str, instead: str) -> Any:
    """The package.

    Args:
        who: the key that asks for vLLM, and its value.
        instead: what does without it.

    Raises:
        ModelError: it is not installed, or does not fit the other packages.
    """
    try:
        import vllm
    except ImportError as error:
        raise ModelError(
            f"{who}: vLLM cannot be imported ({shortened(str(error))}); install it with "
            f"`{installing('vllm')}`, or use {instead}"
        ) from error
    return vllm


def check_computed(family: Family, config: Any, who: str, instead: str) -> None:
    """Whether vLLM computes a model, found out before anything is loaded.

    Args:
        family: the model's.
        config: the model's.
        who: the key that asks for vLLM, and its value.
        instead: what does without it.

    Raises:
        ModelError: it does not.
    """
    problem = family.serving_problem(config)
    if problem is not None:
        raise ModelError(f"{who}: vLLM has {problem}; use {instead}")


def start_vllm(
    vllm: Any,
    who: str,
    source: str,
    revision: str | None,
    processing: Mapping[str, Any],
    *,
    images: int,
    **arguments: Any,
) -> Any:
    """An engine of vLLM.

    Args:
        vllm: the package.
        who: the keys that a message names.
        source: the checkpoint.
        revision: of the checkpoint on the hub.
        processing: arguments of its processor (`Family.serving_arguments`).
        images: most images of a prompt.
        arguments: further ones of `vllm.LLM`.

    Raises:
        ModelError: it does not start.
    """
    # Its CPU backend takes this away for good, and forked loader workers hang without it.
    set_num_threads = torch.set_num_threads
    try:
        return vllm.LLM(
            model=source,
            revision=revision,
            trust_remote_code=False,
            limit_mm_per_prompt={"image": images, "video": 0},
            mm_processor_kwargs=dict(processing),
            **arguments,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"{who}: vLLM does not start: {shortened(str(error), 300)}") from error
    finally:
        torch.set_num_threads = set_num_threads
