"""The viewer alone: no models, one store that is read (and, with a judge, voted in), loopback."""

import contextlib
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from agent.config.settings import Config, ServeSettings
from agent.rounds.code_version import code_version
from agent.service.figures import Figures
from agent.service.gatekeeper import Gatekeeper
from agent.service.keys import Keys
from agent.service.listening import Server, listening, settings_of, url_of
from agent.viewer.routes import Viewer
from agent.viewer.voting import Voting
from store.database import open_store, read_store


def view_app(config: Config, judge: str = "") -> Gatekeeper:
    """The pages, for who asks by a name of this machine; with a judge, votes in this name."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def start() -> Response:
        return RedirectResponse("/view/")

    opened = partial(open_store, config.store, must_exist=True)
    voting = Voting(opened, judge, config.seed) if judge else None
    pictures = config.hosting.pictures_folder
    viewer = Viewer(
        lambda: read_store(config.store), code_version(), voting=voting, pictures=pictures
    )
    app.include_router(viewer.router("/view"))
    return Gatekeeper(app, ServeSettings(), Keys(None), Figures())


def run(config: Config, port: int, opened: Callable[[str], None], judge: str = "") -> int:
    """Show pages until a signal; `opened` is told the address. The exit code of the signal."""
    bound = listening("127.0.0.1", port)
    with contextlib.closing(bound):
        server = Server(settings_of(view_app(config, judge), 1.0))
        opened(f"{url_of(bound)}/view/")
        server.run(sockets=[bound])
    return server.exit_code
