"""Encodings: which are read right, which lose against better evidence, and when a text fails rather than be garbage."""

# ruff: noqa: RUF001 - texts in many scripts

from __future__ import annotations

import base64
import random
import re
from collections import Counter

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject, ReadWarning
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.decode import decode_and_warn, decode_text
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.encoded_texts import EncodedText, encoded_texts

FORMS = {"8": 0.86, "one name": 0.86, "40": 0.98, "code": 0.9, "utf-7": 0.98, "utf-16-le": 0.98, "utf-16-be": 0.98}
"""Least share of texts read right; of all others 0.99."""

UNICODE = re.compile("utf-(8|16|32|7)")


def read(body: bytes, declared: str | None = None, name: str = "a.txt") -> Document:
    ref = ObjectRef("docs", name, "etag", len(body), "2024-01-02T03:04:05Z")
    return parse_bytes(RawObject(ref, body, declared, {}), FrozenLimits())


def fail(body: bytes) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read(body)
    return caught.value


def is_right(case: EncodedText) -> bool:
    try:
        return decode_text(case.body) == case.text
    except ValueError:
        return False


def test_undeclared_encodings_of_all_languages_are_read_right() -> None:
    """Every seventh text of the table that docs/formats.md shows: languages by encodings by lengths and forms."""
    right, texts = Counter[str](), Counter[str]()
    for case in list(encoded_texts())[::7]:
        group = case.form if not UNICODE.match(case.encoding) else case.encoding
        texts[group] += 1
        right[group] += is_right(case)
    shares = {group: right[group] / count for group, count in texts.items()}
    assert {group: share for group, share in shares.items() if share < FORMS.get(group, 0.99)} == {}


HUNGARIAN = "Az árvíztűrő tükörfúrógép híres magyar szöveg. A gyerekek örülnek a hűvös időnek."
RUSSIAN = "Сегодня хорошая погода, и мы едем на море с друзьями."
POLISH = "Wczoraj poszliśmy na długi spacer wzdłuż rzeki, a dziś świeci słońce."


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (HUNGARIAN, "cp1250", "iso-8859-2"),
        ("Er sagte „nein“ – für 5 €.", "cp1252", "iso-8859-1"),
        ("Γεια σας – “καλημέρα”", "cp1253", "iso-8859-7"),
        (POLISH, "cp1250", "iso-8859-2"),
        (RUSSIAN, "utf-8", "windows-1251"),
        (RUSSIAN * 3, "cp1251", "iso-8859-1"),
        (RUSSIAN * 3, "koi8_r", "us-ascii"),
        ("昨日の夜、私たちはとても遅く家に帰りました。" * 3, "euc_jp", "shift_jis"),
        (RUSSIAN, "cp1251", "utf-8"),
        (HUNGARIAN, "cp1250", "utf-16"),
        (HUNGARIAN, "cp1250", "ebcdic-cp-us"),
        (HUNGARIAN, "cp1250", "no-such-encoding"),
    ],
)
def test_a_declared_encoding_that_cannot_be_right_loses(text: str, encoding: str, declared: str) -> None:
    """It gives control characters, does not decode, is contradicted by valid UTF-8 or makes no words of the bytes."""
    assert decode_text(text.encode(encoding), declared=declared) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Jenő Erdős", "cp1250"), ("Jenő Erdős", "iso8859_2"), ("Vytautas Žukauskas", "cp1257"), ("Øre", "cp865"),
        ("Ayşe Güneş", "cp1254"), ("Æ", "mac_roman"), ("Ŵy", "iso8859_14"), ("Ŝanĝo", "iso8859_3"), ("ﾀﾅｶ", "cp932"),
        ("王小明", "big5"), ("王小明", "gbk"), ("Łódź", "mac_latin2"), ("Иван", "mac_cyrillic"), ("Việt", "cp1258"),
        ("été", "utf-7"), ("中文", "hz"), ("Grüße", "cp500"),
    ],
)  # fmt: skip
def test_a_declared_encoding_decides_where_the_bytes_do_not(text: str, encoding: str) -> None:
    """A few letters are too little evidence against what the document says itself."""
    body = text.encode(encoding, "ignore")
    assert decode_text(body, declared=encoding) == body.decode(encoding)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\x1b$BF|K\\8l\x1b(B and \x1b(I\x43\x3d\x44\x1b(B end", "日本語 and ﾃｽﾄ end"),
        (b"\x1b$)C\x0e" + "안녕하세요".encode("iso2022_kr")[5:-1] + b"\x0f ok", "안녕하세요 ok"),
        (b"This is ~{<:Ky2;S{#,NpJ)l6HK!#~}Bye.\n", "This is 己所不欲，勿施於人。Bye.\n"),
        ("Hi Mom -☺-! é à bientôt".encode("utf-7"), "Hi Mom -☺-! é à bientôt"),
    ],
)
def test_encodings_in_seven_bits_are_recognized(body: bytes, text: str) -> None:
    """ISO 2022 of Japan and Korea, HZ and UTF-7 look like ASCII, and are none."""
    assert decode_text(body) == text


@pytest.mark.parametrize(
    "text",
    [
        "git add +new and +old, C++ and a+b", "call +49 30 1234567 or +1234", "RISC+ARM", "if (~{0}) { x = ~{a}; }",
        "~{ab\n", "~~~\ncode\n~~~\n", "see ~/.profile", "\x1b[31mred\x1b[0m", "+AGE", "dGVzdA+AAAA/+==", "1+1=2",
    ],
)  # fmt: skip
def test_ascii_stays_as_it_is(text: str) -> None:
    """Plus signs, tildes and colours of terminals switch to nothing."""
    assert decode_text(text.encode()) == text


@pytest.mark.parametrize("word", ["Tromsø", "città", "già", "è", "azúcar", "borða", "Demà", "í", "qu’à", "Müller"])
@pytest.mark.parametrize(
    "form",
    [
        "Report of the day: {}, as always.\nSecond line of text in English.\n",
        "id,name,city\n1,Smith,London\n2,{},Rome\n3,Brown,Paris\n",
        "/* Copyright (c) 2003 {} */\nint main() {{ return 0; }}\n",
    ],
)
def test_a_single_word_of_western_europe_among_ascii(form: str, word: str) -> None:
    """A letter is no dagger or degree of a Macintosh or DOS, and no word of one Cyrillic letter."""
    text = form.format(word)
    assert decode_text(text.encode("cp1252")) == text


@pytest.mark.parametrize("size", [60, 100, 300, 1000])
@pytest.mark.parametrize("form", ["{}", "token: {}\n", "plain words\n{} and others\n"])
def test_base64_stays_as_it_is(form: str, size: int) -> None:
    """Keys, tokens and certificates have plus signs, which seem to begin characters of UTF-7."""
    generator = random.Random(size)
    for _ in range(50):
        text = form.format(base64.b64encode(generator.randbytes(size)).decode())
        assert decode_text(text.encode()) == text


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["天気がいいので、子供たちは庭で遊んでいます。", "孩子们在院子里玩因为天气很好我们很晚才回到家"]
)
def test_utf_16_without_mark_and_without_ascii(codec: str, text: str) -> None:
    """Chinese and Japanese have no zero byte that would betray UTF-16."""
    assert decode_text(text.encode(codec)) == text


@pytest.mark.parametrize("codec", ["cp1250", "cp1252", "iso8859_2", "iso8859_5", "koi8_r", "cp866", "cp932", "gb18030"])
def test_no_choice_gives_control_characters(codec: str) -> None:
    """Whatever the bytes and the declaration: a text either has no character between U+0080 and U+009F, or fails."""
    for number in range(300):
        body = bytes((number * 7919 + place * place * 31 + place * 17) % 256 | 0x20 for place in range(40))
        try:
            text = decode_text(body, declared=codec)
        except ValueError:
            continue
        assert not re.search("[\x80-\x9f]", text), body


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff\xfe\0\0"])
def test_binary_data_behind_a_byte_order_mark_is_no_text(mark: bytes) -> None:
    """Garbage is not stored: the object fails, or an attachment is a warning."""
    for size in (400, 20_000):
        assert fail(mark + random.Random(size).randbytes(size)).code == "binary_content"


def test_text_in_an_encoding_that_nobody_knows_fails() -> None:
    """Bytes that make words in no encoding: the object fails and says what helps, instead of being found by nobody."""
    generator = 12345
    body = bytearray(b"Note: ")
    for place in range(600):
        generator = (generator * 1103515245 + 12345) % 2**31
        body.append(0x20 if place % 6 == 5 else 0x80 + (generator >> 16) % 128)
    error = fail(bytes(body))
    assert error.code == "encoding_unknown"
    assert error.hint.startswith("Convert the object to UTF-8, or declare")
    assert fail(bytes(range(256)) * 20).code == "binary_content"


def test_a_few_damaged_bytes_cost_a_warning_and_not_the_text() -> None:
    """The rest of a damaged text is read; the place of the damage is visible, and the object says so."""
    damaged = read(("Größe und Länge. " * 50).encode() + b"\xff\xfe end")
    assert damaged.text == "Größe und Länge. " * 50 + "\ufffd\ufffd end"
    assert damaged.warnings == (ReadWarning("characters_replaced", 2, "Bytes that are no characters of utf-8."),)
    log = read(b"request done in 12 ms\n" * 400 + b"i\x93vn\x9coq\xc0dq\xdfvy\xdeyo\xcbvv\xc3dy\xd6v\n")
    assert log.text.endswith("ms\ni\ufffdvn\ufffdoq\ufffddq\ufffdvy\ufffdyo\ufffdvv\ufffddy\ufffdv\n")
    assert [(warning.code, warning.count) for warning in log.warnings] == [("characters_replaced", 8)]
    western = read(("Déjà vu à l’été. " * 60).encode("cp1252") + b"\x81")
    assert western.text == "Déjà vu à l’été. " * 60 + "\ufffd"
    assert western.warnings[0].count == 1


def test_replacement_characters_of_the_author_are_no_damage() -> None:
    """U+FFFD itself, C1 controls in UTF-8 and text that was encoded twice stay as they are, without a warning."""
    for text in ("a \ufffd b é", "caf\u00c3\u00a9 \u0085 x", "x\ufeffy é", "Ã¤Ã¶Ã¼"):
        assert decode_and_warn(text.encode()) == (text, ())


@pytest.mark.parametrize("codec", ["cp1250", "euc_jp", "cp932", "koi8_r"])
@pytest.mark.parametrize("end", ["\n", " "])
def test_the_letters_that_tell_may_come_late_and_in_one_long_line(codec: str, end: str) -> None:
    """A sample leaves out the ASCII before them, and cuts no character in the middle."""
    text = {"cp1250": HUNGARIAN, "koi8_r": RUSSIAN}.get(codec, "昨日の夜、私たちはとても遅く家に帰りました。")
    whole = f"an entry in plain ASCII{end}" * 3000 + f"{text}{end}" * 500
    assert decode_text(whole.encode(codec)) == whole


@pytest.mark.parametrize(
    "text",
    [
        "2011-09-14,3.81 €,0.70 €,2.81 €\n2011-09-15,4.06 €,0.58 €\n", "from £1.00 to £12.30", "25.40°, 70.47°, 31.23°",
        "A. Claims ……………………,,,262,596", "test\xa0", "Annual sales (in ¥ or US$): 5", "… are merged", "© 2009 – all",
        "Windows® 95", "5 µm × 3 µm", "§ 4, see ¶ 5", "½ cup",
    ],
)  # fmt: skip
def test_symbols_among_ascii_are_those_of_windows(text: str) -> None:
    """Currencies, degrees, dots and spaces without one letter beyond ASCII: exports of spreadsheets."""
    assert decode_text(text.encode("cp1252")) == text


def test_boxes_and_capitals_of_dos_are_read() -> None:
    """Frames of DOS programs and texts in capitals have no small letters to count."""
    frame = "╔════════════════╗\n║ ОТЧЁТ ЗА ГОД   ║\n║ Всего заказов  ║\n╚════════════════╝\n"
    assert decode_text(frame.encode("cp866")) == frame
    assert decode_text(RUSSIAN.upper().encode("koi8_r")) == RUSSIAN.upper()


@pytest.mark.parametrize(
    "text",
    [
        "Menu à la carte", "vis-à-vis", "Maria é professora", "words é", "10 Stück à 3 Euro", "ou ù", "x ä", "på å",
        "À Paris", "É isso", "5 €", "20 °C", "© 2020 Foo", "a – b", "one • two",
    ],
)  # fmt: skip
def test_a_lone_letter_or_symbol_among_ascii_is_that_of_windows(text: str) -> None:
    """Letters of other scripts and of DOS are no likelier between Latin words, and symbols are not letters."""
    assert decode_text(text.encode("cp1252")) == text
