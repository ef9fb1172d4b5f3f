// Says so when a page is not up to date any more: while the service does not answer its requests for news.

const note = document.getElementById("stale");

function show(isStale) {
  if (note && note.hidden === isStale) note.hidden = !isStale;
}

for (const name of ["htmx:sendError", "htmx:responseError", "htmx:sseError"]) {
  document.body.addEventListener(name, () => show(true));
}
for (const name of ["htmx:sseOpen", "htmx:sseMessage"]) {
  document.body.addEventListener(name, () => show(false));
}
document.body.addEventListener("htmx:afterRequest", (event) => event.detail.successful && show(false));

// What a reader has unfolded stays so when a part of the page is replaced, and the focus stays where it is in there.
let unfolded = [];
let focused = null;

document.body.addEventListener("htmx:sseBeforeMessage", (event) => {
  unfolded = [...event.target.querySelectorAll("details[id][open]")].map((details) => details.id);
  const active = document.activeElement;
  const home = event.target.contains(active) ? active.closest("details[id]") : null;
  focused = home ? `#${home.id} ${active.localName}` : null;
});
document.body.addEventListener("htmx:sseMessage", () => {
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.querySelector(focused)?.focus();
  unfolded = [];
  focused = null;
});
