"""What decides the answers that a file or a folder holds: it is kept beside them.

Not here: comparing it with that of the command that continues them (`vqr1.config.earlier`).
"""

from __future__ import annotations

from typing import Any

from vqr1.config import EvalConfig, ScoreConfig, ServerConfig
from vqr1.config.affects import Affects, deciding
from vqr1.policy.training_prompt import vision_id_of

EXPECTATION = "numbers of at most two decimals in the accepted range"
"""What an expected score is taken over: results from before it was a grammar are not mixed."""

VISION_ID = "prompt.vision_id"


def answer_settings(
    config: EvalConfig | ScoreConfig, least: Affects = Affects.ANSWERS
) -> dict[str, Any]:
    """What decides an image's answers, by dotted key; all else may change when resumed.

    Args:
        config: of the command, the name of a server's model filled in.
        least: lowest level of the keys, as the schema declares them.
    """
    server, mode = isinstance(config.backend, ServerConfig), config.mode.name
    settings = deciding(config, least)
    if VISION_ID in settings:
        # Null is what the checkpoint records.
        settings[VISION_ID] = vision_id_of(config.prompt, config.model, hub=not server)
    if mode != "sampled":
        # Nothing is drawn.
        settings.pop("seed", None)
    if mode == "expected":
        settings["mode.expectation"] = EXPECTATION
    return settings
