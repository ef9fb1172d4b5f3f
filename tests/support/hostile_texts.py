"""Texts that try to become more than text where a page shows them: markup, scripts, directions, sizes."""

from __future__ import annotations

from typing import Final

FOREIGN: Final = "http://evil.example"

SHORT: Final = {
    "script": "<script>window.ran = 1</script>",
    "image": "<img src=x onerror='window.ran = 1'>",
    "foreign image": f"<img src={FOREIGN}/x.png><link rel=stylesheet href={FOREIGN}/x.css>",
    "svg": "<svg onload=window.ran=1><a xlink:href='javascript:window.ran=1'><text>x</text></a></svg>",
    "url": "javascript:window.ran=1",
    "end of elements": "</textarea></title></style></pre></code></a></td></table><script>window.ran = 1</script>",
    "end of an attribute": "\" autofocus onfocus=window.ran=1 x=\" ' onmouseover='window.ran=1' y='",
    "htmx": "<b hx-get=/console/system hx-trigger=load data-hx-post=/drain hx-on:htmx:load='window.ran=1'>x</b>",
    "events": f"<b hx-ext=sse sse-connect={FOREIGN}/events data-hx-on--load=window.ran=1 hx-swap-oob=true>x</b>",
    "frame": f"<iframe srcdoc='<script>parent.ran=1</script>'></iframe><base href={FOREIGN}/><meta http-equiv=refresh>",
    "template": "{{ 7 * 7 }}{% for one in [1] %}{{ one }}{% endfor %}${7*7}<%= 7 * 7 %>",
    "override": "invoice\u202efdp.exe",
    "embeddings": "a\u202b\u202d\u2067\u2068b",
    "early end": "\u2069\u2069\u202c\u202egnorw",
    "right to left": "\u05e9\u05dc\u05d5\u05dd 123 \u0645\u0631\u062d\u0628\u0627",
    "zero width": "pay\u200bpal\u200d\ufeff\u2060",
    "nothing to see": "\u200b\u3164\u00ad",
    "controls": "a\x1b[31mb\x07c\x85d\u2028e\u2029f",
    "one word": "w" * 700,
}
"""As they fit into a key, by what they try."""

NUL: Final = "before\x00after"
"""A browser drops the middle."""

LONG: Final = "w" * 1_000_000
"""A word that fits nowhere."""
