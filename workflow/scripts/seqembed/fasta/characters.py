"""Names of characters for messages, those that cannot be seen included."""

from __future__ import annotations

import re
import unicodedata

# These end an id. A no-break space looks like a blank, and NCBI joins the headers of equal
# sequences by a control character.
BLANK_TEXT = re.compile("[ \t\x01\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# These cannot be seen: an id with one of them is not the id that it looks like.
INVISIBLE = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]")


def name_character(text: bytes, place: int) -> str:
    """Name the character at a place of UTF-8 text, such as 'J' or U+200B ZERO WIDTH SPACE.

    A byte that belongs to no character is named by its value.
    """
    if 32 < text[place] < 127:
        return repr(chr(text[place]))
    for size in (2, 3, 4):
        try:
            letter = text[place : place + size].decode()
        except UnicodeDecodeError:
            continue
        if len(letter) == 1:
            return name_letter(letter)
    return f"byte 0x{text[place]:02x}"


def name_letter(letter: str) -> str:
    """Return a character's code point and Unicode name."""
    return f"U+{ord(letter):04X} {unicodedata.name(letter, 'without a name')}"
