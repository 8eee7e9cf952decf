"""The viewer's pages as a browser is sent them."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest
from sqlalchemy import delete

from agent.config.settings import Config
from agent.viewer.routes import STATIC
from scripts.vendor_web import VENDORED, differing
from store import viewing
from store.database import open_store, read_store
from store.schema import Round, Run
from tests.agent.viewer.conftest import HOSTILE, start
from tests.rows import a_round, a_run

pytestmark = pytest.mark.round
PAGES = [
    "/",
    "/runs/served",
    "/runs/served/rounds/1",
    "/runs/served/rounds/1?kind=solved&words=1&stop=solved&page=0",
    "/runs/served/compare?before=1&after=1",
    "/runs/served/critics",
    "/checkpoints",
    "/samples",
    "/problems/1",
    *(f"/searches/{i}" for i in range(1, len(HOSTILE) + 1)),
    "/searches/1/table",
    "/searches/5/export",
]
MISSING = [
    "/runs/none",
    "/runs/served/rounds/9",
    "/searches/99999",
    "/searches/99999999999999999999999",
    "/searches/-1",
    "/problems/0",
    "/api/searches/99999/tree",
    "/api/searches/1/nodes/99999",
    "/static/none.js",
    "/static/../routes.py",
    "/static/%2e%2e/routes.py",
    "/static//etc/passwd",
]


class Elements(html.parser.HTMLParser):
    """What a page holds that could run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.handlers.append(name)
            if name in ("src", "href", "action"):
                self.links.append(value or "")
        if tag == "script":
            self.scripts.append(dict(attrs).get("src") or "")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_holds_text_as_text_and_fetches_nothing_from_elsewhere(
    view_url: str, page: str
) -> None:
    found = httpx.get(view_url + page, timeout=30)
    assert found.status_code == 200
    if page.endswith("/export"):
        assert found.headers["content-security-policy"] == "sandbox"
        return
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    elements = Elements()
    elements.feed(found.text)
    assert (
        not elements.handlers and not {"iframe", "object", "embed", "img", "svg"} & elements.names
    )
    assert all(s.startswith("/view/static/") for s in elements.scripts)
    assert all(link.startswith(("/view", "?", "#")) for link in elements.links)
    assert "49" not in re.findall(r"49\$\{", found.text)


@pytest.mark.parametrize("page", MISSING)
def test_what_is_not_there_is_told_without_a_trace(view_url: str, page: str) -> None:
    found = httpx.get(view_url + page, timeout=30)
    assert found.status_code in (400, 404) and "Traceback" not in found.text


@pytest.mark.parametrize(
    "page", ["/runs/served/rounds/1?kind=<b>", "/samples?show=x", "/runs/served/rounds/1?page=-1"]
)
def test_a_filter_that_is_none_is_refused(view_url: str, page: str) -> None:
    assert httpx.get(view_url + page, timeout=30).status_code in (400, 422)


def test_the_trees_columns_are_what_the_store_holds(view_url: str, viewed_config: Config) -> None:
    found = httpx.get(f"{view_url}/api/searches/8/tree", timeout=30).json()
    tree = found["tree"]
    assert len({len(tree[k]) for k in ("ix", "parent", "depth", "n", "w", "p", "label")}) == 1
    assert len(tree["leaf"]) == found["search"]["simulations"]
    root = tree["ix"].index(0)
    assert tree["n"][root] == len(tree["leaf"])
    assert tree["w"][root] == pytest.approx(sum(tree["backed"]), rel=1e-4)
    store = read_store(viewed_config.store)
    with store.session() as session:
        node = viewing.node_shown(session, 8, tree["leaf"][0])
    store.close()
    shown = httpx.get(f"{view_url}/api/searches/8/nodes/{tree['leaf'][0]}", timeout=30).json()
    assert shown == json.loads(json.dumps(node)) and shown["path"][-1]["text"] == shown["text"]


def test_tokens_need_a_server_with_models(view_url: str) -> None:
    found = httpx.get(f"{view_url}/api/searches/8/nodes/1/tokens", timeout=30)
    assert found.status_code == 400 and "ratchet serve" in found.json()["error"]["fix"]


def test_an_exported_page_is_one_file_whose_data_ends_no_element(
    viewed_config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "tree.html"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agent", "view", "export", "5", "--out", str(out)),
            *("--store", viewed_config.store),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == str(out)
    text = out.read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.links == [] and set(elements.scripts) == {""}
    data = text.split('id="tree-data">')[1].split("</script>")[0]
    assert json.loads(data)["search"]["problem"] == HOSTILE[4]
    assert "<script>window" not in text


def test_a_run_whose_name_has_slashes_has_its_pages(view_url: str, viewed_config: Config) -> None:
    store = open_store(viewed_config.store)
    with store.session() as session:
        run = a_run(name="team/a b")
        session.add(run)
        session.flush()
        session.add(a_round(run.id, 1, "kept", models={"policy": "v"}))
        number = run.id
    try:
        listed = httpx.get(view_url).text
        (path,) = re.findall(r'href="(/view/runs/team[^"]*)"', listed)
        assert "team/a b" in httpx.get(view_url.removesuffix("/view") + path).text
        for page in ("/rounds/1", "/critics", "/compare?before=1&after=1"):
            found = httpx.get(view_url.removesuffix("/view") + path + page)
            assert found.status_code == 200 and "team/a b" in found.text
    finally:
        with store.session() as session:
            session.execute(delete(Round).where(Round.run_id == number))
            session.execute(delete(Run).where(Run.id == number))
        store.close()


def test_an_unknown_store_is_told_before_anything_listens(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "view", "--store", f"sqlite:///{tmp_path}/no.db"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3 and "no.db" in done.stderr


def test_vendored_files_are_those_of_their_digests() -> None:
    assert not differing()
    assert all((STATIC / "vendor" / f"{v.package}.LICENSE").stat().st_size for v in VENDORED)


def test_all_that_a_browser_loads_is_small() -> None:
    import gzip

    files = [p for p in STATIC.rglob("*") if p.suffix in (".js", ".css")]
    assert sum(len(gzip.compress(p.read_bytes(), 9)) for p in files) < 80_000


def test_a_page_of_a_store_that_went_away_says_so(tmp_path: Path, viewed_config: Config) -> None:
    import shutil

    from store.address import sqlite_path

    source = sqlite_path(viewed_config.store)
    assert source is not None
    copy = tmp_path / "copy.db"
    shutil.copy(source, copy)
    server, thread, url = start(viewed_config.model_copy(update={"store": f"sqlite:///{copy}"}))
    assert httpx.get(f"{url}/", timeout=30).status_code == 200
    copy.unlink()
    found = httpx.get(f"{url}/", timeout=30)
    assert found.status_code == 404 and "Traceback" not in found.text
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "..%2f..%2f..%2froutes.py", "vendor", "%00", "\x7f", "tree.js/", ""]
)
def test_no_file_but_those_of_the_package_is_served(view_url: str, name: str) -> None:
    assert httpx.get(f"{view_url}/static/{quote(name, safe='%')}").status_code == 404
