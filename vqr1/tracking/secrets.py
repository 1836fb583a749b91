"""Hiding secrets in whatever is written down: configurations, parameters, tags, command lines.

What counts as a secret is decided by name (`api_key`, `hub.token`, `PASSWORD`) and by form (a
password inside an address, tokens with the well-known prefixes of model hubs and clouds). A number
is never one: `max_new_tokens` stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_WORDS = frozenset(
    ("key", "apikey", "token", "password", "passwd", "pwd", "sslpassword", "passphrase", "secret",
     "credential", "credentials", "auth", "authorization")
)  # fmt: skip
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_LOGIN = re.compile(r"(?<=://)[^:/@\s]*(?::[^@\s]*)?@(?:[^/@\s]*@)*")
"""As SQLAlchemy reads it: a password may hold `/`; one that holds `@` as well, as urllib does."""
_QUERY = re.compile(r"([?&][^=&?\s]+)=[^&#\s\"']*")
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})"
)
_ASSIGNED = re.compile(r"([A-Za-z0-9_.\-]+)=(\"[^\"]*\"|'[^']*'|[^\s,&?}\]]+)")


def is_secret(name: str) -> bool:
    """Whether the last part of a dotted name states that its value is a secret."""
    words = _WORD.findall(name.rsplit(".", 1)[-1])
    return any(word.lower() in _SECRET_WORDS for word in words)


def masked_uri(text: str) -> str:
    """`text` with user name, password and secrets in the query of every address in it replaced."""

    def asked(match: re.Match[str]) -> str:
        return f"{match[1]}={MASK}" if is_secret(match[1]) else match[0]

    return _QUERY.sub(asked, _LOGIN.sub(f"{MASK}@", text))


def masked_text(text: str) -> str:
    """Free text, such as a command line: passwords in addresses, known tokens, `secret=value`."""

    def assigned(match: re.Match[str]) -> str:
        return f"{match[1]}={MASK}" if is_secret(match[1]) else match[0]

    return _ASSIGNED.sub(assigned, _TOKEN.sub(MASK, masked_uri(text)))


def masked(value: Any, name: str = "") -> Any:
    """Nested containers with every secret text replaced.

    Args:
        value: mappings, lists and plain values.
        name: key that holds `value`; what lies below a secret key is secret.
    """
    if isinstance(value, Mapping):
        return {
            key: masked(part, name if is_secret(name) else str(key)) for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(part, name) for part in value]
    if isinstance(value, str):
        return MASK if is_secret(name) and value else masked_text(value)
    return value
