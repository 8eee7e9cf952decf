"""The viewer alone: no models, one store that is read, loopback."""

import contextlib
from collections.abc import Callable

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from agent.config.settings import Config, ServeSettings
from agent.rounds.code_version import code_version
from agent.service.figures import Figures
from agent.service.gatekeeper import Gatekeeper
from agent.service.keys import Keys
from agent.service.listening import Server, listening, settings_of, url_of
from agent.viewer.routes import Viewer
from store.database import read_store


def view_app(config: Config) -> Gatekeeper:
    """The pages, for who asks by a name of this machine."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def start() -> Response:
        return RedirectResponse("/view/")

    app.include_router(Viewer(lambda: read_store(config.store), code_version()).router("/view"))
    return Gatekeeper(app, ServeSettings(), Keys(None), Figures())


def run(config: Config, port: int, opened: Callable[[str], None]) -> int:
    """Show pages until a signal; `opened` is told the address. The exit code of the signal."""
    bound = listening("127.0.0.1", port)
    with contextlib.closing(bound):
        server = Server(settings_of(view_app(config), 1.0))
        opened(f"{url_of(bound)}/view/")
        server.run(sockets=[bound])
    return server.exit_code
