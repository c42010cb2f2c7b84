"""The routes of the explorer page. Its files are read when the routes are added."""

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

from charladder.serving.api_errors import APIError

_MEDIA_TYPES = {
    "html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "png": "image/png",
}  # fmt: skip


def add_page_routes(app: FastAPI) -> None:
    folder = resources.files("charladder.serving") / "page"
    files = {file.name: file.read_bytes() for file in folder.iterdir() if _suffix(file.name) in _MEDIA_TYPES}

    def send_file(name: str) -> Response:
        if name not in files:
            raise APIError(404, "the page has no file of this name")
        return Response(files[name], media_type=_MEDIA_TYPES[_suffix(name)])

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return send_file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        return send_file(name)


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
