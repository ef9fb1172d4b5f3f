"""Texts of strangers on every page: none becomes markup, runs, widens the page, or turns what is around it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Final
from urllib.parse import quote

from playwright.async_api import Page, expect

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.state.ledger import Ledger
from support.browser import NARROW, Visitor
from support.control import Plane, World
from support.hostile_texts import LONG, NUL, SHORT
from support.stored_objects import write_chunk, write_collection

KEYS: Final = {f"{number:02d} {text}": text for number, text in enumerate(SHORT.values())}
TEXTS: Final = tuple(SHORT.values())
MANY: Final = " | ".join(text for name, text in SHORT.items() if name != "one word")
NEWS: Final = "News: " + " / ".join(reversed(TEXTS))
PREFIX: Final = SHORT["override"] + SHORT["end of elements"]
REASON: Final = SHORT["override"] + SHORT["script"]
FOREIGN: Final = sorted((*TEXTS, MANY, NEWS, PREFIX, REASON), key=len, reverse=True)

WATCH: Final = """
document.addEventListener("securitypolicyviolation", (event) => {
  (window.violations ??= []).push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""

MARKUP: Final = (
    "body script, main img, main svg[onload], iframe, base, main link, main meta, b, [onerror], [onload], [onfocus], "
    "[onmouseover], [srcdoc], main [hx-swap-oob], [href^='javascript:'], [sse-connect^='http'], main table table"
)
"""What only a text that became markup makes."""

FIND_FAULTS: Final = """
([markup, texts]) => {
  const faults = [...(window.violations ?? [])];
  if (window.ran) faults.push("a script ran");
  for (const found of document.querySelectorAll(markup)) faults.push(`markup: ${found.outerHTML.slice(0, 200)}`);
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) {
    const isOver = (one) => one.getBoundingClientRect().right > innerWidth;
    const over = [...document.querySelectorAll("body *")].filter(isOver).map((one) => one.outerHTML.slice(0, 120));
    faults.push(`${wide} pixels wide: ${over.slice(0, 4).join("; ")}`);
  }
  const turning = /[\\u0590-\\u08ff\\u202a-\\u202e\\u2066-\\u2069]/;
  const place = (node, at) => {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getClientRects()[0];
  };
  const check = (node, from, to) => {
    while (from < to && node.data[from].trim() === "") from++;
    to = Math.min(to, from + 8); // on one line, as a rule
    while (to > from && node.data[to - 1].trim() === "") to--;
    const [first, last] = to - from > 1 ? [place(node, from), place(node, to - 1)] : [];
    if (first && last && first.top === last.top && last.left < first.left) {
      const words = node.data.slice(from, to).slice(0, 100);
      faults.push(`turned: ${words} in ${node.parentElement.outerHTML.slice(0, 200)}`);
    }
  };
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.parentElement.closest("pre, textarea, option, .sign")) continue;
    const from = node.data.search(turning);
    if (from < 0) {
      check(node, 0, node.data.length);
      continue;
    }
    const text = texts.find((one) => turning.test(one) && node.data.includes(one));
    if (text) {
      const at = node.data.lastIndexOf(text);
      check(node, 0, at);
      check(node, at + text.length, node.data.length);
    }
  }
  return faults;
}
"""


async def check(page: Page, visitor: Visitor, shown: Iterable[str] = ()) -> None:
    """Check a page on a phone; ``shown`` are texts that it must have as they are."""
    await page.set_viewport_size(NARROW)
    found = await page.evaluate(FIND_FAULTS, [MARKUP, FOREIGN])
    visitor.faults += [f"{page.url[:200]}: {fault}" for fault in found]
    text = await page.evaluate("document.querySelector('main').textContent")
    missing = [one for one in shown if one not in text]
    assert not missing, (page.url[:200], missing)


async def open_watched(visitor: Visitor) -> Page:
    """Return a page that reports dialogs and violations of its policy."""
    await visitor.context.add_init_script(WATCH)
    page = await visitor.open()

    async def refuse(dialog: object) -> None:
        visitor.faults.append(f"dialog on {page.url[:200]}")
        await dialog.dismiss()  # type: ignore[attr-defined]  # a Dialog

    page.on("dialog", refuse)
    return page


async def test_objects_and_passages_stay_texts(visitor: Visitor, world: World) -> None:
    """Keys, reasons, warnings, passages and other fields, alone, marked, and side by side."""
    reasons = dict(list(KEYS.items())[::2])
    write_collection(world, "notes", [*KEYS, "passages.txt"], failed=reasons, warned=KEYS, chunks=1)
    for number, text in enumerate((*TEXTS, NUL, LONG)):
        changes = {"text": text, "context": text, "metadata": {"name": text}}
        for store in (world.qdrant, world.weaviate):
            write_chunk(store, "notes", "passages.txt", number, **changes)
        if number % 2:
            other = {"text": f"other {text}", "content_type": text, "title": text}
            write_chunk(world.weaviate, "notes", "passages.txt", number, **{**changes, **other})
    page = await open_watched(visitor)
    root = f"{visitor.url}/console/collections/notes"
    await page.goto(f"{root}/objects?view=keys")
    await check(page, visitor, KEYS)
    await page.goto(f"{root}/objects")
    await check(page, visitor)
    for key, text in KEYS.items():
        await page.goto(f"{root}/object?key={quote(key, safe='')}")
        await check(page, visitor, {key, text})
    for name in ("override", "early end", "right to left", "script"):
        await page.goto(f"{root}/remove?prefix={quote(SHORT[name], safe='')}")
        await check(page, visitor, {SHORT[name], "are removed from Qdrant and Weaviate."})
    await page.goto(f"{root}/object?key=passages.txt")
    await check(page, visitor, {*TEXTS, LONG, "beforeafter"})
    await page.goto(f"{visitor.url}/console/search?collection=notes")
    await page.get_by_label("Passages per store").select_option("100")
    await page.get_by_label("Question or phrase").fill(MANY)
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator(".passages > li").first).to_be_visible()
    await check(page, visitor, TEXTS)


async def test_jobs_stay_texts(visitor: Visitor, plane: Plane, world: World) -> None:
    """Requests, notes, failures, errors and logs; also of parts that the page loads, and of its events."""
    metadata = {f"name_{number}": text for number, text in enumerate(TEXTS) if text.isprintable()}
    source = {"bucket": "docs", "prefix": PREFIX, "include": [SHORT["script"]]}
    ended = await plane.submit(source=source, metadata=metadata)
    running = await plane.submit(collection="others", source=source)
    await plane.look()
    reasons = {**KEYS, "nul": NUL, "long": LONG}
    failures = [{"key": key, "code": "no_text", "reason": text, "retryable": False} for key, text in reasons.items()]
    Ledger(world.state, ended).write_failures("a01-00001", failures)
    world.engine.log = "\n".join((*TEXTS, NUL, LONG))
    error = {"code": "too_many_failures", "message": MANY, "hint": MANY, "context": {}}
    counts = {"planned": 30, "failed": len(failures), "failures.no_text": len(failures)}
    world.engine.finish(ended, "failed", error=error, counts=counts)
    world.engine.progress(running, note=MANY, phase="paused", waits_for="weaviate")
    await plane.look()
    page = await open_watched(visitor)
    await page.goto(visitor.url)
    await check(page, visitor, {MANY[:100]})
    await page.goto(f"{visitor.url}/console/jobs/{ended}")
    await check(page, visitor, {MANY, PREFIX})
    for path in ("failures", "failures?code=no_text"):
        await page.goto(f"{visitor.url}/console/jobs/{ended}/{path}")
        await check(page, visitor, {*KEYS, *TEXTS, LONG, "beforeafter"})
    await page.goto(f"{visitor.url}/console/jobs/{ended}/log")
    await check(page, visitor, {*TEXTS, LONG, "beforeafter"})
    await page.goto(f"{visitor.url}/console/jobs/new?like={ended}")
    await check(page, visitor)
    values = "[...document.querySelectorAll('textarea, input')].map((one) => one.value).join('\\n')"
    entered = await page.evaluate(values)
    assert [text for text in (*metadata.values(), SHORT["script"]) if text not in entered] == []
    await page.goto(f"{visitor.url}/console/jobs/{running}")
    await check(page, visitor, {MANY})
    await page.get_by_text("Log of the driver").click()
    await expect(page.locator("#log")).to_contain_text("window.ran")
    world.engine.progress(running, note=NEWS, phase="paused", waits_for="weaviate")
    await plane.look()
    await expect(page.get_by_text("News: ")).to_be_visible()
    await check(page, visitor, {NEWS, *TEXTS})
    world.engine.finish(running)
    await plane.look()
    await expect(page.get_by_text("succeeded").first).to_be_visible()


async def test_the_system_and_the_audit_log_stay_texts(visitor: Visitor, plane: Plane, world: World) -> None:
    """The reason of a drain, what a system says of its failure, and what callers asked for."""
    for text in TEXTS:
        source = {"bucket": "docs", "prefix": text}
        assert (await plane.client.post("/ray/jobs", json={"source": source, "collection": "notes"})).status_code == 202
    assert (await plane.client.put("/drain", json={"reason": REASON})).status_code == 200
    await plane.services.audit.flush()

    def away(_kind: str) -> None:
        raise TransientError("weaviate_unavailable", MANY)

    world.weaviate.before_read = away
    page = await open_watched(visitor)
    await page.goto(f"{visitor.url}/console/system")
    await check(page, visitor, {REASON, MANY})
    await page.goto(f"{visitor.url}/console/system/audit")
    await check(page, visitor, {text for text in TEXTS if text.isprintable()})


async def test_links_cannot_write_into_pages(visitor: Visitor, plane: Plane) -> None:
    """Whatever stands in the place of a name, a filter or a page in a URL."""
    page = await open_watched(visitor)
    visitor.expected += ["status of 404", "status of 422"]
    places = cycle((
        "/console/collections/{}",
        "/console/collections/{}/objects",
        "/console/aliases/{}",
        "/console/jobs/{}",
        "/console/{}",
        "/console/collections?deleted={}",
        "/console/aliases?removed={}",
        "/?collection={}&owner={}",
        "/console/search?collection={}&bucket={}&content_type={}&key_prefix={}",
        "/console/system/audit?who={}&subject={}&operation={}",
        "/console/jobs/new?bucket={}&alias={}&collection={}",
        "/console/login?next={}",
    ))  # fmt: skip
    for text in TEXTS:
        written = quote(text[:100], safe="")
        for place in ("/console/collections?q={}", next(places), next(places), next(places)):
            await page.goto(visitor.url + place.replace("{}", written))
            await check(page, visitor)
    await page.goto(f"{visitor.url}/console/collections?deleted={quote('notes; call 555-1234')}")
    await expect(page.get_by_text("555-1234")).to_have_count(0)
