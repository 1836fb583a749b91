"""The text of a token, read from its piece in the vocabulary, without decoding.

Vocabularies of bytes and of characters (byte-level BPE, sentencepiece) write printable ASCII as
itself, and blanks and the ends of lines each in its own way. Other characters differ: no text that
holds them can be compared with pieces.

Not here: decoding.
"""

from __future__ import annotations

_BLANKS = str.maketrans({"\u0120": " ", "\u010a": "\n", "\u2581": " "})
"""How vocabularies of bytes, and of characters, write blanks and the ends of lines."""

_LINE_END = "<0x0A>"
"""The end of a line in vocabularies of characters that have bytes for what they lack, as Llama's
first two."""


def token_text(piece: str) -> str:
    r"""What a piece writes, as far as that is printable ASCII, blanks and the ends of lines.

    >>> token_text("\u0120score"), token_text("\u2581score"), token_text("</"), token_text("<0x0A>")
    (' score', ' score', '</', '\n')

    Args:
        piece: as the vocabulary has it.
    """
    return "\n" if piece == _LINE_END else piece.translate(_BLANKS)
