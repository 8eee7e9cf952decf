"""One search as one HTML file that needs no server."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape
from markupsafe import Markup

from agent.viewer.pages import SCRIPTS
from store import viewing
from store.database import Session

STATIC = Path(__file__).parent / "static"
STYLES = ("vendor/uPlot.min.css", "style.css")
NODES = 5_000
"""Nodes whose whole text goes into the file, at most."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>Search {{ search.id }} · Ratchet</title><style>{{ styles }}</style></head>
<body><main><h1>Search {{ search.id }}</h1><p class="problem">{{ search.problem }}</p>
<dl class="facts"><dt>answer</dt><dd>{{ search.answer or "none" }}</dd><dt>reference</dt>
<dd>{{ search.reference or "unknown" }}</dd>
<dt>run</dt><dd>{{ search.run }}, {{ search.round }}</dd>
<dt>policy</dt><dd>{{ search.policy }}</dd></dl>
<div id="tree" data-root="" data-search="{{ search.id }}"></div></main>
<footer>{{ version }}</footer>
<script type="application/json" id="tree-data">{{ data }}</script>
{% for script in scripts %}<script>{{ script }}</script>
{% endfor %}</body></html>
"""


def search_page(session: Session, search_id: int, version: str) -> str:
    """The page. Raises NotFoundError."""
    search = viewing.search_shown(session, search_id)
    tree = viewing.tree_columns(session, search_id)
    nodes = {str(ix): viewing.node_shown(session, search_id, ix) for ix in tree["ix"][:NODES]}
    return _filled(
        {
            "search": search,
            "data": _inert({"search": search, "tree": tree, "nodes": nodes}),
            "styles": Markup("\n".join((STATIC / name).read_text() for name in STYLES)),
            "scripts": [_script((STATIC / name).read_text()) for name in SCRIPTS],
            "version": version,
        }
    )


def _filled(values: dict[str, Any]) -> str:
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True))
    return environment.from_string(PAGE).render(values)


def _inert(data: Any) -> Markup:
    """JSON that cannot end the element it stands in, nor open another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _script(text: str) -> Markup:
    """Our own and the vendored scripts, none of which may hold the end of an element."""
    assert "</script" not in text.lower()
    return Markup(text)
