"""Characters of fonts whose codes are no letters of any encoding: Symbol and Wingdings."""

from __future__ import annotations

import re

# RUF001: Greek letters that look like Latin ones are what the table is for.
SYMBOL = {
    code: char
    for start, row in (
        (0x20, " !∀#∃%&∋()∗+,−./0123456789:;<=>?"),  # noqa: RUF001
        (0x40, "≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_"),
        (0x60, "‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"),  # noqa: RUF001
        (0xA0, "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…│─↵"),  # noqa: RUF001
        (0xC0, "ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓"),  # noqa: RUF001
        (0xE0, "◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪"),
        (0xF1, "〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭"),
    )
    for code, char in enumerate(row, start)
}
"""Unicode by the code of the font Symbol (Adobe's Symbol encoding): Greek letters and signs of mathematics."""

WINGDINGS = {
    0x21: "✏", 0x22: "✂", 0x23: "✁", 0x28: "☎", 0x29: "✆", 0x2A: "✉", 0x36: "⌛", 0x37: "⌨", 0x3E: "✇", 0x3F: "✍",
    0x41: "✌", 0x45: "☜", 0x46: "☞", 0x47: "☝", 0x48: "☟", 0x4A: "☺", 0x4B: "😐", 0x4C: "☹", 0x4E: "☠", 0x4F: "⚐",
    0x51: "✈", 0x52: "☼", 0x54: "❄", 0x58: "✠", 0x59: "✡", 0x5A: "☪", 0x5B: "☯", 0x5C: "ॐ", 0x6C: "●", 0x6D: "❍",
    0x6E: "■",
    0x6F: "□", 0x71: "❑", 0x72: "❒", 0x74: "⧫", 0x75: "◆", 0x76: "❖", 0x78: "⌧", 0x7B: "❀", 0x7C: "✿", 0x7D: "❝",
    0x7E: "❞", 0x9E: "·", 0x9F: "•", 0xA1: "○", 0xA4: "◉", 0xA5: "◎", 0xA7: "▪", 0xA8: "◻", 0xAA: "✦", 0xAB: "★",
    0xAC: "✶", 0xAD: "✴", 0xAE: "✹", 0xAF: "✵", 0xD5: "⌫", 0xD6: "⌦", 0xD8: "➢", 0xDC: "➲", 0xDF: "←", 0xE0: "→",
    0xE1: "↑", 0xE2: "↓", 0xE3: "↖", 0xE4: "↗", 0xE5: "↙", 0xE6: "↘", 0xE8: "➔", 0xEF: "⇦", 0xF0: "⇨", 0xF1: "⇧",
    0xF2: "⇩", 0xF3: "⬄", 0xF4: "⇳", 0xFB: "✗", 0xFC: "✓", 0xFD: "☒", 0xFE: "☑",
    **{0x80 + number: "⓪①②③④⑤⑥⑦⑧⑨⑩"[number] for number in range(11)},
    **{0x8B + number: "⓿❶❷❸❹❺❻❼❽❾❿"[number] for number in range(11)},
}  # fmt: skip
"""Unicode by the code of the font Wingdings: the marks of lists, boxes to tick, arrows, numbers, signs."""

_PRIVATE = re.compile("[\uf020-\uf0ff]")


def map_symbol(font: str, code: int) -> str | None:
    """Return the character at a place of a font; None if the font or the place has none in Unicode. Pure.

    Args:
        font: Name of the font in any case; for other fonts than these the code is the character.
        code: Place, with or without the offset of F000 (hexadecimal) that Office adds.
    """
    place = code - 0xF000 if 0xF000 <= code <= 0xF0FF else code
    if font.lower() == "symbol":
        return SYMBOL.get(place)
    if font.lower() == "wingdings":
        return " " if place == 0x20 else WINGDINGS.get(place)
    return chr(code) if place == code and 0x20 <= code < 0x11_0000 and not 0xD800 <= code <= 0xF8FF else None


def map_private(text: str, font: str) -> str:
    """Return a text with the private characters of a symbol font as Unicode, where it has them. Pure.

    Without a font's name they are those of Symbol, the bullets of copied lists.
    """
    if text.isascii():
        return text
    return _PRIVATE.sub(lambda found: map_symbol(font or "symbol", ord(found[0])) or found[0], text)
