"""Forms that only Adobe's viewer draws (dynamic XFA): their pages in the PDF ask for that viewer."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pypdfium2.raw as pdfium

from ingestion_engine.pipeline.parsing.formats.pdf.library import Handle, read_bytes

_TEXTS = frozenset({"text", "exData"})
_NOT_SHOWN = frozenset(
    {"bind", "calculate", "event", "format", "items", "proto", "script", "speak", "toolTip", "traversal", "validate"}
)
_DATA = "{http://www.xfa.org/schema/xfa-data/1.0/}data"


def read_xfa(document: Handle) -> str | None:
    """Return the texts that the form shows, then ``name: value`` per value filled in; None if it cannot be read.

    Cost: linear in the form's XML, which is read without external entities and with expat's limits.
    """
    shown: list[str] = []
    filled: list[str] = []
    for index in range(max(0, pdfium.FPDF_GetXFAPacketCount(document))):
        packet = read_bytes(pdfium.FPDF_GetXFAPacketContent, document, index) or b""
        if b"template" not in packet and b"datasets" not in packet:
            continue
        try:
            root = ET.fromstring(packet)  # noqa: S314 - expat bounds entity expansion and fetches nothing
        except ET.ParseError:
            if b"<xdp:xdp" in packet[:1024] and b"</xdp:xdp" not in packet:
                continue  # the opening tag of the whole, a packet of its own
            return None
        for element in (root, *root):
            if _name(element) == "template":
                shown += _shown_texts(element)
            elif _name(element) == "datasets":
                filled += (line for data in element.iter(_DATA) for line in _values(data))
    return "\n".join(shown + filled)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _shown_texts(template: ET.Element) -> Iterator[str]:
    waiting = [template]
    while waiting:
        element = waiting.pop()
        name = _name(element)
        if name in _TEXTS:
            text = " ".join(" ".join(element.itertext()).split())
            if text:
                yield text
        elif name not in _NOT_SHOWN:
            waiting += reversed(element)


def _values(data: ET.Element) -> Iterator[str]:
    for element in data.iter():
        value = (element.text or "").strip()
        if value and len(element) == 0:
            yield f"{_name(element)}: {value}"
