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
