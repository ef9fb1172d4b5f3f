"""Tables whose column names are not simply their first row, and files of values that are not simply well-formed."""

from __future__ import annotations

import itertools

import pytest

from ingestion_engine.pipeline.parsing.formats.tables import read_csv, render_csv, render_rows

NAMED = {
    ",name,city\n0,Ada,London\n": "0; name: Ada; city: London",  # pandas writes its index without a name
    "country,2019,2020\nPeru,11,12\n": "country: Peru; 2019: 11; 2020: 12",
    ",2019,2020\nPeru,11,12\n": "Peru; 2019: 11; 2020: 12",
    "item,2024-01-31,29.02.2024\nRent,5,6\n": "item: Rent; 2024-01-31: 5; 29.02.2024: 6",
    "country,0-14,15-64\nPeru,1,2\n": "country: Peru; 0-14: 1; 15-64: 2",
    "height (m),weight [kg]\n1.7,80\n": "height (m): 1.7; weight [kg]: 80",
    "sep=;\nname;city\nAda;London\n": "name: Ada; city: London",
    '"sep=^"\nname^city\nAda^London\n': "name: Ada; city: London",
    "sep=,,,\nname,a,b\nAda,1,2\n": "name: Ada; a: 1; b: 2",
    "name,value,value\na,1,2\n": "name: a; value: 1; value: 2",
    "name,phone,phone\nA,x,y\nB,z,w\nC,u,v\n": (
        "name: A; phone: x; phone: y\nname: B; phone: z; phone: w\nname: C; phone: u; phone: v"
    ),
    "name,city,\nAda,London,x\n": "name: Ada; city: London; x",
    "name,,city\nAda,,London\n": "name: Ada; city: London",
    "name;price\nTea;1,5\nBun;2,5\n": "name: Tea; price: 1,5\nname: Bun; price: 2,5",
    "a;b;c\n1,5;2,5;3,5\n3,5;4,5;1,0\n": "a: 1,5; b: 2,5; c: 3,5\na: 3,5; b: 4,5; c: 1,0",
    "Report 2024\nname,city\nAda,London\n": "Report 2024\nname: Ada; city: London",
    "Sales by quarter,,,\nAs of May,,,\nRegion,Q1,Q2,Q3\nNorth,1,2,3\n": (
        "Sales by quarter\nAs of May\nRegion: North; Q1: 1; Q2: 2; Q3: 3"
    ),
    "Title,,,\n,,,\nname,a,b,c\nx,y,z,w\n": "Title\nname: x; a: y; b: z; c: w",
    "a,b\n1,2\n\nregion,total\nNorth,5\n": "a: 1; b: 2\nregion: North; total: 5",
    "a,b\n1,2\n\n3,4\n": "a: 1; b: 2\na: 3; b: 4",
    "name,notes\nAda,\nBob,\n": "name: Ada\nname: Bob\nnotes",  # no name is lost
    'a,b\n"line\nbreak",2\n': "a: line break; b: 2",
    "a,b\nn/a,2\n": "a: n/a; b: 2",
}

NAMELESS = {
    "1,2,3\n4,5,6\n": "1 | 2 | 3\n4 | 5 | 6",
    "Ada,1815,1852\nBob,1912,1954\n": "Ada | 1815 | 1852\nBob | 1912 | 1954",  # years, but not names
    "Rent,2024-01-31\nFood,2024-02-01\n": "Rent | 2024-01-31\nFood | 2024-02-01",
    "Ada,n/a\nBob,5\n": "Ada | n/a\nBob | 5",
    "Ada,yes,yes\nBob,no,yes\nCy,no,no\n": "Ada | yes | yes\nBob | no | yes\nCy | no | no",
    "Ada,,London\nBob,x,Paris\n": "Ada | London\nBob | x | Paris",
    "Ada,\nBob,Paris\nCy,Rome\n": "Ada\nBob | Paris\nCy | Rome",
    "name,city\n": "name | city",
    "one\ntwo\nthree, four\n": "one\ntwo\nthree, four\n",  # not a table
}


@pytest.mark.parametrize(("text", "expected"), [*NAMED.items(), *NAMELESS.items()])
def test_column_names(text: str, expected: str) -> None:
    """Rows carry the names of their columns and only those, whole and one character at a time."""
    assert read_csv(text).text == expected
    assert "".join(render_csv(iter(text))) == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(delimiter: str) -> None:
    """Each is found although cells contain the others."""
    rows = [["name", "words"], *([f"n{i}", '"a,b;c"' if delimiter in ",;" else "a,b;c"] for i in range(5))]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert read_csv(text).text.splitlines()[0] == "name: n0; words: a,b;c"


def test_a_quote_that_nothing_closes() -> None:
    """It is a character of its cell; the rows behind it are rows, not one cell."""
    assert read_csv('a,b\n1,"open\n2,3\n4,5\n').text == 'a: 1; b: "open\na: 2; b: 3\na: 4; b: 5'


def test_many_quotes_that_nothing_closes() -> None:
    """All words are kept in linear time."""
    text = "a,b\n" + "".join(f'"{i},x\n' for i in range(1_001))
    words = read_csv(text).text
    assert all(str(i) in words for i in range(1_001))


def test_rows_longer_than_the_search_for_names() -> None:
    """Names are searched for in the first rows only, and hold for all."""
    rows = itertools.chain([["name", "n"]], (["x", str(i)] for i in range(100)))
    assert list(render_rows(rows))[-1] == "name: x; n: 99"
