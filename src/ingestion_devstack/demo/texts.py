"""Texts of the demo's corpus: a small handbook about running a library, and its news."""

from __future__ import annotations

_BOOK = """
# Opening a new reading room

A reading room opens with an empty shelf list. Before the first box arrives, the librarian writes down which
shelves exist, how wide they are, and who may put something on them. A shelf whose width changes later would
force every card in the catalogue to be written again, so the width is agreed once and never changed.

The keys of the room hang behind the front desk. Whoever takes a key signs the book with name, hour and
reason. A key that is not back by nine in the evening is reported to the night watch, who looks for it before
the alarm is set.

New staff learn the room by walking it with a colleague for three days. On the fourth day they walk alone, and
the colleague checks ten cards at random in the evening.

# Repairing water damage

Wet paper is first frozen, then dried. Freezing stops mould within hours and gives the conservators weeks
instead of days. Books go into the freezer spine down, wrapped in silicone paper, never stacked more than two
high.

Coated paper sticks together when it dries under pressure. Such volumes are interleaved with blotting paper
every ten pages and turned twice a day, at eighteen degrees and below fifty percent humidity.

After drying, the conservator writes a report on each volume: what was lost, what was flattened, what was
resewn. The report is kept for as long as the book is.

# Lending to other houses

Another house may borrow a volume for ninety days. The loan needs a signed form, a photograph of the binding,
and insurance over the value that the keeper of the collection has set. Manuscripts travel with a courier who
does not leave them alone, not even at night.

A borrower who returns a volume damaged pays for its repair and may borrow nothing else for one year. Lost
volumes are searched for during sixty days, then their value is claimed.

# The bees on the roof

Six hives stand on the flat roof above the map room. The beekeeper comes on Tuesdays; the door to the roof
stays closed while the hives are open. The honey is sold in the shop, and the money pays for new binding
leather.

In May a hive may swarm. A swarm in the courtyard is harmless as long as nobody disturbs it. Call the
beekeeper, keep the windows of the east wing shut, and put a sign on the gate.

# Baking for the summer party

The plum cake feeds forty people: three kilograms of plums, one of flour, half a kilogram of butter, twelve
eggs, and a spoon of cinnamon. It bakes for fifty minutes at a hundred and eighty degrees and is better on the
second day.

Whoever bakes also washes up. The big mixer belongs to the bindery and goes back there clean, because flour in
the glue has ruined two volumes already.
"""

_NEWS = """
2026-01-12 | opening hours | From February the reading room opens at eight and closes at seven, Sundays at noon.
2026-02-03 | scanner | The book scanner has a new lamp; scans made before noon are ready the next morning.
2026-03-20 | maps | Two hundred harbour maps of the eighteenth century were given to the house by a shipowner.
2026-04-09 | lift | The goods lift is out of order; boxes over ten kilograms wait in the cellar until Friday.
2026-05-28 | bees | A swarm left the third hive and settled in the lime tree; the beekeeper took it home.
2026-06-15 | visitors | In May 4,112 people visited the exhibition on ship's logs, more than in any month before.
"""

QUESTIONS: tuple[tuple[str, str | None], ...] = (
    ("How do I dry books that got wet?", "handbook/water-damage.docx"),
    ("When may another job take the lease of a collection?", None),
    ("recipe for a cake with fruit", "mail/summer-party.eml"),
)
"""Questions of the demo, each with the key of the best answer; None where several documents may answer."""


def _read_book(text: str) -> dict[str, tuple[str, ...]]:
    chapters: dict[str, tuple[str, ...]] = {}
    for chapter in text.split("# ")[1:]:
        title, *paragraphs = chapter.strip().split("\n\n")
        chapters[title] = tuple(" ".join(paragraph.split()) for paragraph in paragraphs)
    return chapters


HANDBOOK = _read_book(_BOOK)
"""Paragraphs by title. The subjects differ widely, so that a search has one right answer."""

NEWS = tuple(tuple(part.strip() for part in line.split("|")) for line in _NEWS.strip().splitlines())
"""Date, subject and sentence."""
