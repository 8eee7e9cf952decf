"""The viewer's routes: server-rendered pages, and JSON for the tree page.

Everything that comes from a model or a user is escaped by the templates or sent as JSON; no page
asks for anything from another host.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query
from fastapi import Path as PathPart
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request

from agent.pictures.folder import PictureFolder
from agent.viewer import exported, forms, pages
from agent.viewer.voting import MAX_BODY, Voting
from search.errors import NotFoundError, RatchetError, TaskError, UsageError
from store import viewing
from store.database import Store

HERE = Path(__file__).parent
STATIC = HERE / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    # A page without a referrer sends a form without its origin: nobody could sign in.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

MOST = 2**31 - 1
"""The largest number of a round."""
Number = Annotated[int, Query(ge=0, le=MOST)]
InPath = Annotated[int, PathPart(ge=0, le=MOST)]
Tokens = Callable[[int, int], list[dict[str, Any]]]
"""The tokens of a search's node with their log-probabilities."""


class Viewer:
    """Pages over one store. Each request reads it anew; nothing but votes is written."""

    def __init__(
        self,
        opened: Callable[[], Store],
        version: str,
        tokens: Tokens | None = None,
        voting: Voting | None = None,
        pictures: Path | None = None,
    ) -> None:
        """`opened` opens the store to be read; `tokens` asks the models, where there are any;
        `voting` takes votes, where somebody may cast them; `pictures` is the folder of pictures."""
        self.voting = voting
        self.pictures = None if pictures is None else PictureFolder(pictures)
        self.opened = opened
        self.version = version
        self.tokens = tokens
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(("html",), default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self.templates.filters |= {"short": forms.short, "when": forms.when, "cell": forms.cell}

    def router(self, prefix: str = "/view") -> APIRouter:
        """All routes under a prefix."""
        router = APIRouter(prefix=prefix, include_in_schema=False)
        page = self._page
        served = {str(p.relative_to(STATIC)): p for p in STATIC.rglob("*") if p.is_file()}

        @router.get("/static/{name:path}")
        async def static(name: str) -> Response:
            path = served.get(name)
            if path is None:
                return Response("no such file", 404, HEADERS, "text/plain")
            return FileResponse(path, headers=HEADERS | {"cache-control": "max-age=300"})

        @router.get("")
        @router.get("/")
        async def runs() -> Response:
            return await page("runs.html", prefix, pages.runs)

        @router.get("/runs/{run:path}/rounds/{number}")
        async def round_page(
            run: str,
            number: InPath,
            kind: str = "",
            words: str = "",
            stop: str = "",
            page_: int = Query(0, alias="page", ge=0, le=1_000_000),
        ) -> Response:
            return await page(
                "round.html", prefix, pages.one_round, run, number, kind, words, stop, page_
            )

        @router.get("/runs/{run:path}/compare")
        async def compare_page(run: str, before: Number, after: Number) -> Response:
            return await page("compare.html", prefix, pages.compare, run, before, after)

        @router.get("/runs/{run:path}/critics")
        async def critics_page(run: str) -> Response:
            return await page("rows.html", prefix, pages.critics, run)

        # A run's name may hold slashes: its own page comes last.
        @router.get("/runs/{run:path}")
        async def run_page(run: str) -> Response:
            return await page("run.html", prefix, pages.one_run, run)

        @router.get("/checkpoints")
        async def checkpoints_page() -> Response:
            return await page("rows.html", prefix, pages.checkpoints)

        @router.get("/samples")
        async def samples_page(
            run: str = "", policy: str = "", mode: str = "greedy", show: str = "all"
        ) -> Response:
            return await page("rows.html", prefix, pages.samples, run, policy, mode, show)

        @router.get("/problems/{problem_id}")
        async def problem_page(problem_id: int) -> Response:
            return await page("problem.html", prefix, pages.one_problem, problem_id)

        @router.get("/pictures/{name}")
        async def picture(name: str) -> Response:
            return await asyncio.to_thread(self._picture, name)

        @router.get("/arena")
        async def arena_page(task: str | None = None) -> Response:
            return await page("arena.html", prefix, pages.arena, task, self.voting is not None)

        if self.voting is not None:
            self._add_ballots(router, prefix, self.voting)

        @router.get("/searches/{search_id}")
        async def search_page(search_id: int) -> Response:
            return await page("search.html", prefix, pages.one_search, search_id)

        @router.get("/searches/{search_id}/table")
        async def table_page(search_id: int) -> Response:
            return await page("table.html", prefix, pages.table, search_id)

        @router.get("/searches/{search_id}/export")
        async def export_page(search_id: int) -> Response:
            return await self._answered(self.export, search_id)

        @router.get("/api/searches/{search_id}/tree")
        async def tree(search_id: int) -> Response:
            return await self._answered(self.tree, search_id)

        @router.get("/api/searches/{search_id}/nodes/{ix}")
        async def node(search_id: int, ix: int) -> Response:
            return await self._answered(self.node, search_id, ix)

        @router.get("/api/searches/{search_id}/nodes/{ix}/tokens")
        async def tokens(search_id: int, ix: int) -> Response:
            return await self._answered(self.node_tokens, search_id, ix)

        return router

    def _picture(self, name: str) -> Response:
        """A file that is the picture of its name, and no other file."""
        try:
            if self.pictures is None:
                raise TaskError("there is no folder of pictures here")
            digest = name.removesuffix(".png")
            self.pictures.get(digest)
            return FileResponse(self.pictures.file_of(digest), headers=HEADERS)
        except RatchetError:
            return Response("no such picture", 404, HEADERS, "text/plain")

    def _add_ballots(self, router: APIRouter, prefix: str, voting: Voting) -> None:
        @router.get("/arena/ballot")
        async def ballot_page(task: str | None = None) -> Response:
            return await self._page("ballot.html", prefix, voting.ballot, task)

        @router.post("/arena/ballot")
        async def vote(request: Request) -> Response:
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    return Response("that is no vote", 413, HEADERS, "text/plain")
            form = parse_qs(body.decode("utf-8", "replace"))
            return await self._page("ballot.html", prefix, voting.cast, form)

    async def _page(
        self, template: str, prefix: str, make: Callable[..., dict[str, Any]], *given: Any
    ) -> Response:
        def work() -> Response:
            store = self.opened()
            try:
                values = {"is_live": False} | make(store, *given)
                status = 200
            except RatchetError as error:
                values = {"message": error.message, "fix": error.fix, "is_live": False}
                values["trail"] = []
                return self._rendered("wrong.html", values, prefix, store, _status(error))
            finally:
                store.close()
            return self._rendered(template, values, prefix, store, status)

        try:
            return await asyncio.to_thread(work)
        except RatchetError as error:  # the store itself cannot be opened
            values = {"message": error.message, "fix": error.fix, "is_live": False, "trail": []}
            return self._rendered("wrong.html", values, prefix, None, _status(error))

    def _rendered(
        self, template: str, values: dict[str, Any], prefix: str, store: Store | None, status: int
    ) -> Response:
        shown = store.shown if store is not None else "no store"
        common = {"root": prefix, "store": shown, "version": self.version}
        text = self.templates.get_template(template).render(common | values)
        return HTMLResponse(text, status, HEADERS)

    async def _answered(self, make: Callable[..., Response], *given: Any) -> Response:
        def work() -> Response:
            store = self.opened()
            try:
                return make(store, *given)
            finally:
                store.close()

        try:
            return await asyncio.to_thread(work)
        except RatchetError as error:
            body = {"error": {"message": error.message, "fix": error.fix}}
            return JSONResponse(body, _status(error), HEADERS)

    def export(self, store: Store, search_id: int) -> Response:
        with store.session() as session:
            text = exported.search_page(session, pages.checked(search_id), self.version)
        name = f"search-{search_id}.html"
        headers = HEADERS | {"content-disposition": f'attachment; filename="{name}"'}
        return HTMLResponse(text, headers=headers | {"content-security-policy": "sandbox"})

    def tree(self, store: Store, search_id: int) -> Response:
        with store.session() as session:
            found = {
                "search": viewing.search_shown(session, pages.checked(search_id)),
                "tree": viewing.tree_columns(session, search_id),
            }
        raw = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
        return Response(raw, headers=HEADERS, media_type="application/json")

    def node(self, store: Store, search_id: int, ix: int) -> Response:
        with store.session() as session:
            return JSONResponse(
                viewing.node_shown(session, pages.checked(search_id), pages.checked(ix)),
                headers=HEADERS,
            )

    def node_tokens(self, store: Store, search_id: int, ix: int) -> Response:
        if self.tokens is None:
            raise UsageError(
                "no model is loaded here", "ask `ratchet serve`, whose /view has the models"
            )
        return JSONResponse(
            {"tokens": self.tokens(pages.checked(search_id), pages.checked(ix))}, headers=HEADERS
        )


def _status(error: RatchetError) -> int:
    if isinstance(error, NotFoundError):
        return 404
    return 400 if isinstance(error, UsageError) else 503
