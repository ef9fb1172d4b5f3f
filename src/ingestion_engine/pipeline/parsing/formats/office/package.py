"""Office files (OPC packages): parts, relations and properties that all their readers need.

Parts are found by relation and content type, never by name: names are up to the program that wrote the file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning
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


def get_link(element: ET.Element, name: str = "id") -> str:
    """Return the id of a relation that an element has, transitional or strict; empty if it has none."""
    return next((value for key, value in element.attrib.items() if key.endswith(f"/relationships}}{name}")), "")


def find_child(element: ET.Element | None, path: str) -> ET.Element | None:
    """Return the first child along a path of local names, separated by slashes."""
    for name in path.split("/"):
        element = next((child for child in element if local_name(child) == name), None) if element is not None else None
    return element


def parse_part(archive: BoundedZip, name: str) -> ET.Element:
    """Return the root of an XML part. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
    try:
        return ET.fromstring(archive.read(name))  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except (ET.ParseError, LookupError, ValueError) as error:  # the latter for encodings without a decoder
        raise corrupt(archive.what, f"{name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Relation:
    """A link from a part to another one."""

    kind: str
    """Last word of the relation's type, the same in transitional and strict files: "slide", "footnotes"."""
    target: str
    """Name of the part, as stored if it exists; for external targets the address as written."""
    external: bool = False


class Package:
    """The parts of an Office file and what of them could not be read.

    Args:
        archive: The archive, with nothing read yet.
        main: Last part of the file's usual main part ("word/document.xml"), for files without relations.

    Raises:
        ObjectError: ``corrupt_document`` when there is no main part.
    """

    def __init__(self, archive: BoundedZip, main: str) -> None:
        self.archive = archive
        self.warnings: list[ReadWarning] = []
        self._relations: dict[str, dict[str, Relation]] = {}
        self._types: tuple[dict[str, str], dict[str, str]] | None = None
        mains = [part for part in self.targets("", "officeDocument") if archive.find(part)]
        self.main = mains[0] if mains else main
        """Name of the document, presentation or workbook part."""
        if archive.find(self.main) is None:
            raise corrupt(archive.what, f"{main} is missing")

    def relations(self, part: str) -> dict[str, Relation]:
        """Return the relations of a part by id, in order; those of the package for an empty name.

        Relations that cannot be read are empty, with a warning.
        """
        if part not in self._relations:
            self._relations[part] = dict(self._read_relations(part))
        return self._relations[part]

    def targets(self, part: str, *kinds: str) -> list[str]:
        """Return the names of the parts that a part has relations of any of the kinds to, each once, in order."""
        return list(
            dict.fromkeys(
                relation.target
                for relation in self.relations(part).values()
                if relation.kind in kinds and not relation.external
            )
        )

    def parse(self, part: str) -> ET.Element:
        """Return the root of an XML part. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
        return parse_part(self.archive, part)

    def try_parse(self, part: str) -> ET.Element | None:
        """Return the root of an XML part without which the document can be read; None, with a warning, if damaged."""
        try:
            return self.parse(part)
        except ObjectError as error:
            self.warn_unread(part, error)
            return None

    def warn_unread(self, part: str, error: ObjectError) -> None:
        """Record that a part was left out. Raises the error instead if it concerns the whole file."""
        if error.code == "decompressed_too_large":
            raise error
        self.warn("part_unreadable", f"{part}: {error}")

    def warn(self, code: str, detail: str) -> None:
        """Record that something was left out. Cost: constant memory per code."""
        for place, warning in enumerate(self.warnings):
            if warning.code == code:
                self.warnings[place] = replace(warning, count=warning.count + 1)
                return
        self.warnings.append(ReadWarning(code, detail=detail))

    def content_type(self, part: str) -> str:
        """Return the media type of a part in lower case without parameters, by its name or suffix; empty if unknown."""
        if self._types is None:
            self._types = _read_types(self.archive)
        parts, suffixes = self._types
        return parts.get(part.lower()) or suffixes.get(posixpath.splitext(part)[1][1:].lower(), "")

    def read_title(self) -> str | None:
        """Return the title that the file's properties have; None for none, and for what Office itself sets."""
        for part in self.targets("", "core-properties"):
            root = self.try_parse(part) if self.archive.find(part) else None
            title = next((e.text for e in root.iter() if local_name(e) == "title"), None) if root is not None else None
            if title and title.strip() and title.strip() not in _DEFAULT_TITLES:
                return title
        return None

    def finish(self) -> tuple[ReadWarning, ...]:
        """Return all warnings, with those of damaged members that nothing has read. Call it last.

        Raises:
            ObjectError: ``decompressed_too_large``.
        """
        return (*self.warnings, *self.archive.check())

    def _read_relations(self, part: str) -> Iterator[tuple[str, Relation]]:
        folder, name = posixpath.split(part)
        path = self.archive.find(posixpath.join(folder, "_rels", f"{name}.rels"))
        root = self.try_parse(path) if path else None
        for relation in root if root is not None else ():
            target = relation.get("Target", "")
            if external := relation.get("TargetMode", "").lower() == "external":
                found = target
            else:
                found = self._resolve(folder, target)
            kind = relation.get("Type", "").rstrip("/").rpartition("/")[2]
            yield relation.get("Id", ""), Relation(kind, found, external=external)

    def _resolve(self, folder: str, target: str) -> str:
        """Return the name of the part that a relation of a part in a folder points to."""
        target = target.replace("\\", "/").partition("#")[0]
        for name in dict.fromkeys((target, unquote(target))):
            path = posixpath.normpath(posixpath.join("/", folder, name)).lstrip("/")
            if found := self.archive.find(path):
                return found
        # Some writers give targets from the root without the slash that means it.
        return self.archive.find(posixpath.normpath(unquote(target)).lstrip("/")) or path


def _read_types(archive: BoundedZip) -> tuple[dict[str, str], dict[str, str]]:
    """Return the media types by the name of a part, and by the suffix; both keys in lower case."""
    parts: dict[str, str] = {}
    suffixes: dict[str, str] = {}
    try:
        root = parse_part(archive, "[Content_Types].xml")
    except ObjectError:
        return parts, suffixes
    for entry in root:
        media_type = entry.get("ContentType", "").partition(";")[0].strip().lower()
        if name := entry.get("PartName"):
            parts[unquote(name).lstrip("/").lower()] = media_type
        elif suffix := entry.get("Extension"):
            suffixes[suffix.lower()] = media_type
    return parts, suffixes
