"""The static files."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ingestion_engine.console.assets import ASSETS, ROOT

router = APIRouter(include_in_schema=False)


@router.get(ROOT + "/{version}/{path:path}")
async def show_asset(version: str, path: str, request: Request) -> Response:
    """Return a static file; one of another version is not kept by browsers, as during an upgrade of several copies."""
    asset = ASSETS.find(path)
    if asset is None:
        raise HTTPException(404, "There is no such file.")
    is_current = version == ASSETS.version
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-store",
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.compressed, media_type=asset.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(asset.data, media_type=asset.media_type, headers=headers)
