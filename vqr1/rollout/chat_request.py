"""The body of a chat request: the published prompt, and every sampling parameter.

What a request omits is filled in by the server: vLLM, for one, takes the checkpoint's own
generation config (some hold a repetition penalty). Every field that decides an answer is
therefore sent with every request, off where it is not used. A field that a server does not know is
listed in `backend.unsupported`, with the value that holds there; a value asked for that cannot hold
is refused beforehand.

The prompt: "Picture 1: " is sent as text before an image (what the family's template would write
there), and the template's own is switched off, so that neither a server without
`chat_template_kwargs` nor one with defaults for them changes the prompt.

Not here: sending it (`openai_client.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vqr1.config import PromptConfig, SamplingConfig, ServerConfig
from vqr1.policy.chat_content import chat_content

TOP_LOGPROBS = 20
"""Alternatives asked for at each token: the most that the protocol allows."""

NO_TOP_K = -1
"""No limit, as vLLM and SGLang both read it; 0 is refused by some of their releases."""

_OFF: dict[str, float] = {
    "top_p": 1.0,
    "top_k": NO_TOP_K,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "n": 1,
}
"""Values that change nothing."""

_KEYED = ("temperature", "top_p", "top_k", "repetition_penalty")
"""Fields that `mode.sampling` sets."""

_DRAWING = ("top_p", "top_k", "min_p", "seed")
"""Fields without effect on greedy decoding."""

TEMPLATE = "chat_template_kwargs"


def sampling_fields(sampling: SamplingConfig) -> dict[str, Any]:
    """Every field that decides how an answer is drawn, but the seed."""
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        **_OFF,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.temperature > 0:
        fields["top_p"] = sampling.top_p
        fields["top_k"] = sampling.top_k or NO_TOP_K
    return fields


def chat_body(
    config: ServerConfig,
    model: str,
    urls: Sequence[str],
    prompt: PromptConfig,
    *,
    sampling: SamplingConfig,
    seed: int,
    logprobs: bool,
) -> dict[str, Any]:
    """One request for one answer.

    Args:
        config: what the server takes beside the common fields, and what it does not take.
        model: its name for the model.
        urls: the prompt's images in order, as addresses that hold them.
        prompt: what is asked, its `vision_id` decided.
        sampling: how the answer is drawn; `stop` is not sent (`openai_client.py` cuts answers).
        seed: of the answer; not sent with greedy decoding.
        logprobs: ask for the likeliest tokens at each place.
    """
    # It imports torch, which checks of a configuration (below) do without.
    from vqr1.policy.families import served_family

    family = served_family()
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": _content(urls, prompt, family.image_label)}
    ]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    fields = sampling_fields(sampling)
    if sampling.temperature > 0:
        fields["seed"] = seed
    for name in config.unsupported:
        fields.pop(name, None)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": sampling.max_new_tokens,
        **fields,
        **config.extra_body,
    }
    if TEMPLATE not in config.unsupported:
        chosen = family.template_options(False, prompt.enable_thinking)
        options = {**chosen, **config.extra_body.get(TEMPLATE, {})}
        if options:
            body[TEMPLATE] = options
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return body


def _content(urls: Sequence[str], prompt: PromptConfig, label: str) -> list[dict[str, Any]]:
    """Items of the user's message; `label` numbers an image (`Family.image_label`)."""
    content: list[dict[str, Any]] = []
    rest = enumerate(urls, start=1)
    for item in chat_content(prompt.text, prompt.images):
        if item["type"] != "image":
            content.append(item)
            continue
        number, url = next(rest)
        if prompt.vision_id:
            content.append({"type": "text", "text": label.format(number)})
        content.append({"type": "image_url", "image_url": {"url": url}})
    return content


def unsupported_problems(config: ServerConfig, sampling: SamplingConfig) -> list[str]:
    """Why a server cannot draw answers as `mode.sampling` asks, one line each.

    Args:
        config: `unsupported` states what is not sent.
        sampling: how answers are drawn, at temperature 0 where decoding is greedy.
    """
    problems = []
    for name, asked in sampling_fields(sampling).items():
        unsent = name in _KEYED and name in config.unsupported
        if not unsent or (sampling.temperature == 0 and name in _DRAWING):
            continue
        held = _sent_as(name, config.unsupported[name])  # type: ignore[index]
        if held == asked or (held is None and asked == _OFF.get(name)):
            continue
        fixes = [f"give the value that holds there in backend.unsupported.{name}"]
        if held is not None or name in _OFF:
            value = _OFF[name] if held is None else held
            fixes.insert(0, f"set mode.sampling.{name}={_as_key(name, value)}")
        holds = "the server's own value, not known," if held is None else _as_key(name, held)
        problems.append(
            f"mode.sampling.{name}={_as_key(name, asked)}: backend.unsupported lists {name}, so it "
            f"is not sent and {holds} holds; {', or '.join(fixes)}"
        )
    return problems


def _as_key(name: str, value: float) -> str:
    """A field's value as `mode.sampling` has it."""
    return "0" if name == "top_k" and value == NO_TOP_K else f"{value:g}"


def held_instead(config: ServerConfig, sampling: SamplingConfig) -> list[str]:
    """What holds on a server in place of values of ours, such as `top_k 20`; for reports.

    Args:
        config: `unsupported` states what is not sent.
        sampling: how answers are drawn, at temperature 0 where decoding is greedy.
    """
    asked = sampling_fields(sampling)
    found = []
    for name, given in config.unsupported.items():
        held = _sent_as(name, given)
        if name == TEMPLATE or (sampling.temperature == 0 and name in _DRAWING):
            continue
        if held is None:
            found.append(f"{name} not known")
        elif name in asked and held != asked[name]:
            found.append(f"{name} {_as_key(name, held)}")
    return found


def _sent_as(name: str, held: float | None) -> float | None:
    """A value of `backend.unsupported` as a request would have it: `top_k` may be off as 0 too."""
    return NO_TOP_K if name == "top_k" and held == 0 else held
