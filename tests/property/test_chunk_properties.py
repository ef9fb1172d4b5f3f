"""What holds of the chunks of any text."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.records import Chunk, Document, ObjectRef, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.chunk import _fill_gap, chunk_document, split_refused
from ingestion_engine.pipeline.chunking.sections import WINDOW_CHARS, cut_sections, splits_character
from ingestion_engine.pipeline.chunking.tokens import CUT_SHARE, SUSPECT_SHARE, TokenLimit, estimate_tokens
from ingestion_engine.pipeline.parsing.parsed_text import clean_text

REF = ObjectRef("docs", "a", "etag", 1, "2024-01-02T03:04:06Z")

_PIECES = st.one_of(
    st.text(max_size=40),
    st.sampled_from((
        "\n", "\n\n", " ", ". ", "# Heading\n", "```\n", "- item\n", "| a | b |\n", "\u200b", "\u00a0", "\u3000",
        "\u2028", "\u0085", "👩‍👩‍👧‍👦", "🇩🇪", "e\u0301", "東京は日本の首都です。", "สวัสดี",
        "x" * 300, "word " * 60, "A sentence. " * 20,
    )),
)  # fmt: skip
TEXTS = st.lists(_PIECES, min_size=1, max_size=40).map("".join).map(clean_text).filter(str.strip)
CHUNKINGS = st.integers(50, 400).flatmap(
    lambda size: st.builds(Chunking, max_chars=st.just(size), overlap_chars=st.integers(0, size // 2))
)
FORMATS = st.sampled_from(TextFormat)


def cut(text: str, text_format: TextFormat, chunking: Chunking, context_length: int | None = None) -> list[Chunk]:
    limit = None if context_length is None else TokenLimit(context_length)
    return list(chunk_document(Document(REF, "text/plain", text, text_format), chunking, limit=limit))


@settings(max_examples=200, deadline=None)
@given(TEXTS, FORMATS, CHUNKINGS, st.none() | st.integers(8, 100))
def test_chunks_cover_the_text_exactly(
    text: str, text_format: TextFormat, chunking: Chunking, context: int | None
) -> None:
    """Offsets slice back, nothing visible is lost, sizes hold, order and ids are right."""
    chunks = cut(text, text_format, chunking, context)
    covered: set[int] = set()
    for chunk in chunks:
        assert chunk.text == text[chunk.start_char : chunk.end_char]
        assert chunk.text.strip()
        assert len(chunk.text) <= chunking.max_chars
        covered.update(range(chunk.start_char, chunk.end_char))
    assert all(at in covered for at, char in enumerate(text) if not char.isspace())
    assert [chunk.start_char for chunk in chunks] == sorted(chunk.start_char for chunk in chunks)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert len({chunk.point_id for chunk in chunks}) == len(chunks)


@settings(max_examples=50, deadline=None)
@given(TEXTS, FORMATS, CHUNKINGS)
def test_chunking_is_deterministic(text: str, text_format: TextFormat, chunking: Chunking) -> None:
    """The same document gives the same chunks."""
    assert cut(text, text_format, chunking) == cut(text, text_format, chunking)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.booleans(), st.integers(50, 200))
def test_sections_are_a_disjoint_cover(text: str, markdown: bool, max_chars: int) -> None:
    """Sections join to the text."""
    assert "".join(cut_sections([text], max_chars, markdown=markdown)) == text


@settings(max_examples=100, deadline=None)
@given(TEXTS, CHUNKINGS, st.integers(8, 60))
def test_the_context_limit_holds_unless_one_character_breaks_it(text: str, chunking: Chunking, context: int) -> None:
    """A chunk over the estimate is one that cannot be halved."""
    for chunk in cut(text, TextFormat.PLAIN, chunking, context):
        assert estimate_tokens(chunk.text) <= CUT_SHARE * context or split_refused(chunk) is None


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_halves_lose_only_white_space(text: str) -> None:
    """Both parts are shorter, not blank, and slice back."""
    whole = cut(text, TextFormat.PLAIN, Chunking())[0]
    parts = split_refused(whole)
    if parts is None:
        assert all(splits_character(whole.text, at) for at in range(1, len(whole.text)))
        return
    left, right = parts
    assert left.text == text[left.start_char : left.end_char]
    assert right.text == text[right.start_char : right.end_char]
    assert left.text.strip() == left.text != ""
    assert right.text.strip() == right.text != ""
    assert not text[left.end_char : right.start_char].strip()
    assert (left.start_char, right.end_char) == (whole.start_char, whole.end_char)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_cleaned_texts_can_be_stored(text: str) -> None:
    """Cleaning is idempotent; the result is UTF-8 and has no NUL and no carriage return."""
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert not {"\0", "\r"} & set(cleaned.encode("utf-8").decode("utf-8"))


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters() | st.sampled_from("aZ9é한."), max_size=60), st.integers(1, 150))
def test_a_short_cut_to_fitting_changes_no_answer(text: str, context: int) -> None:
    """A text that is not looked at, because it is so short, is one whose estimate fits and is no suspect."""
    limit = TokenLimit(context)
    assert limit.fits(text) == (estimate_tokens(text) <= CUT_SHARE * context)
    assert limit.is_suspect(text) == (estimate_tokens(text) > SUSPECT_SHARE * context)


_WORDS = [
    "ที่นี่ตั้งน้ำกำลังเป็นภาษา", "ພາສາລາວກຳນົດ", "हिन्दीक्षत्रियविश्व", "বাংলাদেশেরভাষা", "தமிழ்மொழிக்கு",
    "မြန်မာဘာသာစကား", "ភាសាខ្មែរគឺជា", "བོད་སྐད་ཡིག", "שָׁלוֹםעֲלֵיכֶם", "العَرَبِيَّةُلُغَةٌ", "e\u0301a\u0308o\u0302\u0323",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8", "ﾊﾟﾋﾟﾌﾞﾍﾞ", "か\u3099き\u3099。\ufe00",
    "👩‍👩‍👧‍👦👍🏽🏴󠁧󠁢󠁥󠁮󠁧󠁿❤️", "☝🏿1️⃣", "漢\U000e0100字",
    "Z" + "\u0301" * 30, "plain", "x" * 70,
]  # fmt: skip
SCRIPTS = st.lists(st.sampled_from([*_WORDS, " ", "\n", "\n\n", ". "]), min_size=1, max_size=60).map("".join)


@settings(max_examples=400, deadline=None)
@given(SCRIPTS.map(clean_text).filter(str.strip), FORMATS, CHUNKINGS, st.none() | st.integers(8, 60))
def test_no_chunk_begins_within_a_character(
    text: str, text_format: TextFormat, chunking: Chunking, context: int | None
) -> None:
    """With a mark, a joiner, a skin tone: whatever the script, however small the limit; nor does a refused half."""
    for chunk in cut(text, text_format, chunking, context):
        assert not begins_within(text, chunk.start_char), chunk
        for part in split_refused(chunk) or ():
            assert not begins_within(text, part.start_char), part


@settings(max_examples=100, deadline=None)
@given(SCRIPTS.filter(str.strip), st.integers(1, 40))
def test_no_gap_or_window_begins_within_a_character(text: str, max_chars: int) -> None:
    """What the splitter leaves out, and lines longer than a window, are cut in the same way."""
    for start, _ in _fill_gap(text, 0, len(text), max_chars=max(max_chars, 32)):
        assert not begins_within(text, start)
    whole = text * (2 * WINDOW_CHARS // len(text) + 1)
    end = 0
    for section in cut_sections([whole], 50, markdown=False):
        assert not begins_within(whole, end)
        end += len(section)


def begins_within(text: str, at: int) -> bool:
    """Whether a place is within what a reader takes for one character; a mark behind white space is none."""
    if at == 0 or at >= len(text) or text[at - 1].isspace():
        return False
    is_joined = text[at - 1] == "\u200d" or text[at] in "\u200d\u200cำຳﾞﾟ" or "\u1160" <= text[at] <= "\u11ff"
    is_tone = "\U0001f3fb" <= text[at] <= "\U0001f3ff" or "\U000e0020" <= text[at] <= "\U000e007f"
    return is_joined or is_tone or unicodedata.category(text[at]).startswith("M")
