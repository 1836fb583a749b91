"""The page to drop images on, a list of the endpoints, and the OpenAPI document.

Static files that load nothing else; the document is encoded once.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

STATIC = Path(__file__).resolve().parent / "static"

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: scripts and styles of this service only, none inline."""

HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}

PAGES = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/draw.js": "draw.js",
    "/docs": "docs.html",
    "/docs.js": "docs.js",
}


def add_pages(app: FastAPI) -> None:
    """Serve the static files and the document; FastAPI is not to (`openapi_url=None`)."""

    @cache
    def encoded() -> bytes:
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    async def document() -> Response:
        return Response(encoded(), media_type="application/json")

    app.add_api_route("/openapi.json", document, include_in_schema=False)
    for path, name in PAGES.items():
        app.add_api_route(path, _sender(STATIC / name), include_in_schema=False)


def _sender(file: Path):  # type: ignore[no-untyped-def]
    async def send() -> FileResponse:
        return FileResponse(file, media_type=TYPES[file.suffix], headers=HEADERS)

    return send
