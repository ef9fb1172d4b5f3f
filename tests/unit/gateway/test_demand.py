"""What the gateway reads of a request: model, number of texts, characters."""

from __future__ import annotations

import json

import pytest

from ingestion_engine.gateway.demand import EXACT_BYTES, Demand, read_demand, read_name


@pytest.mark.parametrize(
    ("body", "model", "texts", "characters"),
    [
        (b'{"model": "m", "input": ["one", "two\\n", ""]}', "m", 3, 7),
        (b'{"model": "m", "input": "h\xc3\xa9llo"}', "m", 1, 5),
        (b'{"model": "m", "input": ["\\ud55c\\uad6d"]}', "m", 1, 2),
        (b'{"model": "m", "input": []}', "m", 0, 0),
        (b'{"model": "m"}', "m", 0, 0),
        (b'{"input": ["a"]}', "", 1, 1),
        (b'{"model": "%s", "input": ["a"]}' % (b"m" * 1_001), "", 1, 1),
        (b'{"Model": "m", "INPUT": ["ab"]}', "m", 1, 2),
        (b'{"model": "m", "input": ["a", 1, null, "bc"]}', "m", 4, 3),
        (b'{"model": "m", "input": ["\xff\xfe"]}', "m", 1, 2),
        (b'{"model": "m", "options": {"input": ["x", "y"]}, "input": ["a"]}', "m", 1, 1),
    ],
)
def test_texts_and_characters_are_those_of_the_texts(body: bytes, model: str, texts: int, characters: int) -> None:
    """Escapes and bytes are not characters; names are read as Ollama reads them."""
    assert read_demand(body) == Demand(model, texts, characters, is_valid=True)


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'"text"', b'{"input": {"a": 1}}', b"{", b'{"a":' * 3000, b"\x00\xff", b'{"model": 3, "input": "x"}'],
)
def test_what_is_no_request_is_not_valid(body: bytes) -> None:
    """The server refuses it in its own words; here it costs at most one text."""
    demand = read_demand(body)
    assert not demand.is_valid
    assert demand.texts == 1
    assert demand.model == ""


def test_the_texts_of_a_large_body_are_counted_exactly() -> None:
    """Only its characters are estimated."""
    body = json.dumps({"model": "m", "input": ["x" * 1000] * 2000}).encode()
    assert len(body) > EXACT_BYTES
    demand = read_demand(body)
    assert demand.texts == 2000
    assert demand.characters == len(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model": "a", "input": "x", "input": ["1", "2"], "model": "m"}', Demand("m", 2, 2, is_valid=True)),
        (b'{"model": "m", "INPUT": "x", "input": "y", "INPUT": ["1", "2", "3"]}', Demand("m", 3, 3, is_valid=True)),
        (b'{"model": "m", "input": ["1", "2"]} and more', Demand("m", 2, 2, is_valid=True)),
        (b' \n{"model": "m", "input": ["1", "2"]}{"input": []}', Demand("m", 2, 2, is_valid=True)),
        (
            b'{"model": "m", "input": ["1"], "options": {"seed": 123456789012345678901}}',
            Demand("m", 1, 1, is_valid=True),
        ),
        (b'{"model": "m", "input": ["1"], "options": {"seed": %b}}' % (b"9" * 5000), Demand("m", 1, 1, is_valid=True)),
        (b'{"model": "m", "model": null, "input": ["1"]}', Demand("m", 1, 1, is_valid=True)),
        (b'{"model": "m", "input": null}', Demand("m", 0, 0, is_valid=True)),
        (b'{"model": "m", "input": ""}', Demand("m", 0, 0, is_valid=True)),
    ],
)
def test_no_text_is_hidden_from_the_gateway(body: bytes, expected: Demand) -> None:
    """Ollama takes the last field of a name, ignores what follows the object, and reads numbers of any size."""
    assert read_demand(body) == expected


def test_numbers_beyond_64_bits_hide_no_name() -> None:
    """They are no error of ours."""
    assert read_name(b'{"model": "m", "seed": 123456789012345678901}') == ""
