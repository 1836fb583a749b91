"""Operations of both sides' steps, counted from shapes; see `vqr1/planning/flops.py`.

Not here: times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.setup import Size, Subject, loaded_images
from vqr1.planning.flops import StepFlops, step_flops


@dataclass(frozen=True)
class Counts:
    """Operations of a step.

    Attributes:
        prompt_tokens: of one prompt.
        image_tokens: of them, what stands for the image.
        ours: with image and prompt once for all responses.
        peer: with both once for each response.
    """

    prompt_tokens: int
    image_tokens: int
    ours: StepFlops
    peer: StepFlops

    @property
    def ratio(self) -> float:
        """The peer's operations over ours: how much faster sharing alone could make a step."""
        return self.peer.unshared / self.ours.step

    @property
    def shares(self) -> dict[str, float]:
        """Shares of tower, prompt and responses in the peer's operations."""
        parts = {part: getattr(self.peer, part) for part in ("vision", "prompt", "responses")}
        return {part: value / self.peer.forward for part, value in parts.items()}


def counted(subject: Subject, shape: str, size: Size) -> Counts:
    """The operations of a step of a model of a shape."""
    reader = subject.processor()
    config, builder = subject.config(shape, reader), subject.builder(reader)
    tower = subject.family.tower_cost(config, builder.rule, (size.width, size.height))
    extra = subject.family.text_extra(config.get_text_config())
    prompts = builder(loaded_images(replace(size, images=1)))
    length = len(prompts.input_ids[0])
    peer, ours = (
        step_flops(config, tower.flops, length, images, group, size.tokens, extra)
        for images, group in ((size.images * size.group, 1), (size.images, size.group))
    )
    return Counts(length, tower.tokens, ours, peer)
