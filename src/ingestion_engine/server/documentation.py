"""The page that documents the API, ``/docs``: Swagger UI from files of the service, with no script inside the page."""

from __future__ import annotations

from typing import Final

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

STATIC: Final = "/static-offline-docs"
"""Where ``FastAPIOffline`` serves the files of Swagger UI."""

_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ingestion engine: API</title>
<link rel="icon" href="{STATIC}/favicon.png">
<link rel="stylesheet" href="{STATIC}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{STATIC}/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_START: Final = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  layout: "BaseLayout",
  validatorUrl: null,
});
"""


def add_documentation(app: FastAPI) -> None:
    """Add the page to an application of ``FastAPIOffline``, and replace its description of the API by one made once."""
    # FastAPI renders the whole description, 100 kB, for every request: 5 ms in which nothing else is served.
    routes = app.router.routes
    routes[:] = [route for route in routes if getattr(route, "path", "") != app.openapi_url]
    described: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def describe_api() -> Response:
        if not described:
            described.append(orjson.dumps(app.openapi()))
        return Response(described[0], media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def show_documentation() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    @app.get("/docs/start.js", include_in_schema=False)
    async def start_documentation() -> Response:
        return Response(_START, media_type="text/javascript")
