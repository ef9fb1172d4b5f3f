"""Office files (OPC packages): parts, relations and properties that all their readers need."""

from __future__ import annotations

import posixpath
from xml.etree import ElementTree as ET

from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_DEFAULT_TITLES = frozenset({"PowerPoint Presentation", "Word Document", "Microsoft Word", "Untitled"})


def local_name(element: ET.Element) -> str:
    """Return the name of an element without its namespace; empty for comments and instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def get_attribute(element: ET.Element | None, name: str) -> str | None:
    """Return an attribute by its local name, in any namespace."""
    if element is None:
        return None
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def find_child(element: ET.Element | None, path: str) -> ET.Element | None:
    """Return the first child along a path of local names, separated by slashes."""
    for name in path.split("/"):
        element = next((child for child in element if local_name(child) == name), None) if element is not None else None
    return element


def parse_part(archive: BoundedZip, name: str) -> ET.Element:
    """Return the root of an XML part. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
    try:
        return ET.fromstring(archive.read(name))  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ET.ParseError as error:
        raise corrupt(archive.what, f"{name}: {error}") from error


def read_title(archive: BoundedZip) -> str | None:
    """Return the title that the file's properties have; None for none, and for what Office itself sets."""
    if "docProps/core.xml" not in archive.names:
        return None
    title = next((e.text for e in parse_part(archive, "docProps/core.xml").iter() if local_name(e) == "title"), None)
    return title if title and title.strip() and title.strip() not in _DEFAULT_TITLES else None


def read_relations(archive: BoundedZip, part: str) -> dict[str, tuple[str, str]]:
    """Return the relations of a part: id → (last word of the type, path of the target)."""
    folder, name = posixpath.split(part)
    path = f"{folder}/_rels/{name}.rels"
    if path not in archive.names:
        return {}
    return {
        relation.get("Id", ""): (
            relation.get("Type", "").rpartition("/")[2],
            posixpath.normpath(posixpath.join("/", folder, relation.get("Target", ""))).lstrip("/"),
        )
        for relation in parse_part(archive, path)
        if relation.get("TargetMode") != "External"
    }
