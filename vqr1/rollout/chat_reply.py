"""What a chat server's replies hold, of which the types are checked before anything is read.

Answers end where our own engine ends: with `sampling.stop=answer` at the first `</answer>`,
whatever the server wrote after it.

Not here: what becomes of a reply that does not fit (`openai_client.py`).
"""

from __future__ import annotations

from pydantic import BaseModel

from vqr1.policy.top_logprobs import ReportedToken


class Model(BaseModel):
    """A model that a server lists: its name and, by some servers, where it was loaded from."""

    id: str
    root: str | None = None


class Models(BaseModel):
    """The list of a server's models."""

    data: list[Model]


class Alternative(BaseModel):
    """A token that might have stood in a place, with its natural log-probability."""

    token: str
    logprob: float


class Token(Alternative):
    """A token of an answer."""

    top_logprobs: list[Alternative] | None = None


class Logprobs(BaseModel):
    """The tokens of an answer."""

    content: list[Token] | None = None


class Message(BaseModel):
    """An answer's text."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(BaseModel):
    """One answer."""

    message: Message
    logprobs: Logprobs | None = None
    finish_reason: str | None = None

    def text(self, end_text: str | None = None) -> str:
        """The answer as the model wrote it: servers may cut the reasoning out and aside.

        Args:
            end_text: end at the first such text (`</answer>`).
        """
        aside = self.message.reasoning_content or self.message.reasoning
        text = f"{f'<think>{aside}</think>' if aside else ''}{self.message.content or ''}"
        place = -1 if end_text is None else text.find(end_text)
        return text if end_text is None or place < 0 else text[: place + len(end_text)]

    def tokens(self, end_text: str | None = None) -> tuple[ReportedToken, ...]:
        """The answer's tokens with their alternatives; none where the server gave none.

        Args:
            end_text: end with the token that completes the first such text.
        """
        found: list[ReportedToken] = []
        text = ""
        for token in (self.logprobs.content if self.logprobs is not None else None) or ():
            others = {other.token: other.logprob for other in token.top_logprobs or ()}
            found.append(ReportedToken(token.token, {token.token: token.logprob} | others))
            text += token.token
            if end_text is not None and end_text in text:
                break
        return tuple(found)


class Completion(BaseModel):
    """A chat completion."""

    choices: list[Choice]
