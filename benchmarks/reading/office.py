"""Compare the text of Word and PowerPoint files with the characters that their XML holds.

python benchmarks/reading/office.py FOLDER ... [--before SRC] [--libraries PYTHON] [--all]

The second reader walks the parts that python-docx's package reader finds and takes every element of text, without
deleted text and copies for old programs: it knows nothing of paragraphs, tables and fields, so it can lose nothing.
``--before`` is the ``src`` of another version of the engine; ``--libraries`` an interpreter with docx2python, mammoth,
docx2txt and python-pptx, which are compared too.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.compare import ROW_TITLE, WordDiff, compare_words, split_words
from reading.readings import Reader, Reading, engine_readers, find_files, parse_arguments

_BENCHMARKS = str(Path(__file__).parents[1])
_WORD = (".docx", ".docm", ".dotx", ".dotm")
_SLIDES = (".pptx", ".pptm", ".ppsx", ".potx", ".ppsm")

XML = f"""
import sys
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve
from docx.opc.package import OpcPackage
from lxml import etree

SPACES = {{"tab", "ptab", "br", "cr", "txbxContent", "sub", "sup", "den", "deg", "e", "fName", "lim", "oMath"}}
DROPPED = {{"del", "moveFrom", "delText", "instrText", "rPr", "pPr", "sectPr"}}

def local(element):
    return etree.QName(element).localname if isinstance(element.tag, str) else ""

def has_text(element):
    return any(local(child) == "t" and (child.text or "").strip() for child in element.iter())

def is_dropped(element):
    name = local(element)
    if name == "Fallback":
        return any(local(form) == "Choice" and has_text(form) for form in element.getparent())
    if name == "tr":
        return any(local(child) == "del" for part in element if local(part) == "trPr" for child in part)
    if name in ("sp", "fld"):
        kinds = [e.get("type") for e in element.iter() if local(e) in ("ph", "fld")][:1]
        return kinds in (["sldNum"], ["slidenum"])
    return name in DROPPED

def sweep(blob):
    out = []
    walk = etree.iterwalk(etree.fromstring(blob, etree.XMLParser(huge_tree=True)), events=("start", "end"))
    for event, element in walk:
        name = local(element)
        if event == "start" and is_dropped(element):
            walk.skip_subtree()
        elif event == "start" and name in ("t", "text"):
            out.append(element.text or "")
        elif event == "start" and name in SPACES:
            out.append(" ")
        elif event == "start" and name == "noBreakHyphen":
            out.append("-")
        elif event == "end" and name in ("p", "text"):
            out.append("\\n")
    return "".join(out)

def related(part, *kinds):
    links = [link for link in part.rels.values() if not link.is_external]
    return [link.target_part for kind in kinds for link in links if link.reltype.rpartition("/")[2] == kind]

def read(path):
    main = OpcPackage.open(path).main_document_part
    texts = []
    if "wordprocessingml" in main.content_type or "ms-word" in main.content_type:
        parts = [main, *related(main, "footnotes", "endnotes", "comments")]
        lines = [line for part in related(main, "header", "footer") for line in sweep(part.blob).split("\\n")]
        texts = [sweep(part.blob) for part in parts] + list(dict.fromkeys(lines))
    else:
        for link in etree.fromstring(main.blob).iter("{{*}}sldId"):
            name = next(value for key, value in link.attrib.items() if key.endswith("relationships}}id"))
            slide = main.rels[name].target_part
            texts += [sweep(part.blob) for part in [slide, *related(slide, "notesSlide", "comments")]]
    return {{"text": "\\n".join(texts)}}

serve(read)
"""

_LIBRARIES = {
    "docx2python": (_WORD, "from docx2python import docx2python", "docx2python(path).text"),
    "mammoth": (_WORD, "import mammoth", "mammoth.extract_raw_text(open(path, 'rb')).value"),
    "docx2txt": (_WORD, "import docx2txt", "docx2txt.process(path)"),
    "python-docx": (
        _WORD,
        "import docx",
        (
            "'\\n'.join([p.text for p in docx.Document(path).paragraphs]"
            " + [c.text for t in docx.Document(path).tables for r in t.rows for c in r.cells])"
        ),
    ),
    "python-pptx": (
        _SLIDES,
        "import pptx",
        (
            "'\\n'.join(s.text_frame.text for slide in pptx.Presentation(path).slides for s in slide.shapes"
            " if s.has_text_frame)"
        ),
    ),
}
"""(suffixes, import, expression) of the usual way to read a text with each library."""


@dataclass(slots=True)
class Sum:
    """The comparison of one reader with the XML over all files."""

    diff: WordDiff = field(default_factory=WordDiff)
    files: int = 0
    different: int = 0
    """Files that lack a word."""
    failures: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, argv, ("--libraries", {"help": "interpreter with the libraries"}))
    for suffixes, name in ((_WORD, "Word"), (_SLIDES, "PowerPoint")):
        readers = engine_readers(options.before)
        for library, (its, load, expression) in _LIBRARIES.items() if options.libraries else ():
            if its is suffixes:
                script = f"import sys\nsys.path.append({_BENCHMARKS!r})\nfrom reading.readings import serve\n{load}\n"
                script += f"serve(lambda path: {{'text': {expression}}})\n"
                readers[library] = Reader(script, python=options.libraries)
        files = [path for suffix in suffixes for path in find_files(options.folders, suffix)]
        _compare(name, files, readers, is_whole=options.all)


def _compare(name: str, files: list[Path], readers: dict[str, Reader], *, is_whole: bool) -> None:
    sums = {reader: Sum() for reader in readers}
    print(f"\n{name}\n{'file':<60} {'reader':<12}{ROW_TITLE}")
    unread = 0
    with Reader(XML) as xml:
        for path in files:
            theirs = xml.read(path)
            unread += bool(theirs.error)
            for reader, total in sums.items():
                row = _add(total, readers[reader].read(path), theirs)
                if row or is_whole:
                    print(f"{path.name[-60:]:<60} {reader:<12}{row}", flush=True)
    print(f"{len(files)} files, {unread} of them without a package that python-docx reads")
    for reader, total in sums.items():
        print(f"\n{reader}: {total.files} files compared, {total.different} lack a word;", end=" ")
        print(f"failed: {dict(total.failures)}; warnings in files: {dict(total.warnings)}")
        print(f"{ROW_TITLE}\n{total.diff.row()}\n{total.seconds:.1f} s of CPU")
        readers[reader].__exit__()


def _add(total: Sum, ours: Reading, theirs: Reading) -> str:
    """Add a file to the sum; return the end of its row, empty for one without a difference."""
    total.seconds += ours.seconds
    words = len(split_words(theirs.text))
    if ours.error:
        total.failures[ours.error.partition(":")[0] if words else "no words"] += 1
        return f"{words:>9,} {ours.error}" if words else ""
    if theirs.error:
        return ""
    total.files += 1
    total.warnings.update(ours.warnings.keys())
    diff = compare_words(*(text.replace("_", " ") for text in (ours.text, theirs.text)))
    total.diff += diff
    total.different += diff.lost > 0
    return diff.row() if diff.lost or diff.doubled or diff.reordered else ""


if __name__ == "__main__":
    main()
