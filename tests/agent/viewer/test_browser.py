"""The pages in a real Chromium: nothing hostile runs, nothing is fetched from elsewhere."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.config.settings import Config
from scripts.bench.trees import add_tree
from tests.agent.viewer.conftest import HOSTILE

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = [
    pytest.mark.round,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium-headless-shell"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


class Seen:
    """A page, with what it asked for and what went wrong on it."""

    def __init__(self, browser: Any, **more: Any) -> None:
        self.page = browser.new_page(**more)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)

    def goto(self, url: str) -> None:
        self.page.goto(url)

    def ready(self) -> None:
        self.page.wait_for_selector("#tree[data-ready]", timeout=30_000)


@pytest.mark.parametrize("number", range(1, len(HOSTILE) + 1))
def test_hostile_text_of_a_model_runs_nothing(browser: Any, view_url: str, number: int) -> None:
    seen = Seen(browser)
    seen.goto(f"{view_url}/searches/{number}")
    seen.ready()
    assert seen.page.evaluate("window.hurt") is None
    assert not seen.errors
    assert all(r.startswith("http://127.0.0.1:") for r in seen.requests)
    assert HOSTILE[number - 1] in seen.page.inner_text("p.problem")
    seen.page.close()


def test_the_outline_is_walked_by_keys(browser: Any, view_url: str) -> None:
    seen = Seen(browser)
    seen.goto(f"{view_url}/searches/8")
    seen.ready()
    page = seen.page
    page.focus("[role=tree]")
    chosen = "[role=treeitem][aria-selected=true]"
    assert page.get_attribute(chosen, "aria-level") == "1"
    page.keyboard.press("ArrowDown")
    assert page.get_attribute(chosen, "aria-level") == "2"
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute(chosen, "aria-expanded") in ("false", None)
    page.keyboard.press("Home")
    assert page.get_attribute(chosen, "aria-level") == "1"
    page.keyboard.press("ArrowLeft")
    assert page.locator("[role=treeitem]").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=treeitem]").count() > 1
    assert "node=0" in page.url
    page.close()


def test_an_address_that_changes_shows_what_it_says(browser: Any, view_url: str) -> None:
    seen = Seen(browser)
    seen.goto(f"{view_url}/searches/8")
    seen.ready()
    seen.goto(f"{view_url}/searches/8#node=1")  # the same page: nothing is loaded anew
    chosen = "[role=treeitem][aria-selected=true][aria-level='2']"
    seen.page.wait_for_selector(chosen, timeout=5_000)
    assert not seen.errors
    seen.page.close()


def test_the_timeline_shows_the_tree_as_it_was(browser: Any, view_url: str) -> None:
    seen = Seen(browser)
    seen.goto(f"{view_url}/searches/8#at=1")
    seen.ready()
    first = seen.page.get_attribute("[role=treeitem][aria-level='1']", "aria-label")
    assert ", N 1, " in first
    seen.page.close()


@pytest.mark.parametrize(("size", "limit_s"), [(1_000, 3.0), (20_000, 15.0)])
def test_a_large_tree_comes_up(
    browser: Any, view_url: str, viewed_config: Config, size: int, limit_s: float
) -> None:
    """How fast it is the bench of the service says; here only that it comes."""
    number = add_tree(viewed_config.store, size)
    seen = Seen(browser)
    began = time.monotonic()
    seen.goto(f"{view_url}/searches/{number}")
    seen.ready()
    assert time.monotonic() - began < 10 * limit_s
    assert f"{size} nodes" in seen.page.inner_text(".explorer")
    assert seen.page.locator("[role=treeitem]").count() < 100  # the rest is not in the document
    assert not seen.errors
    seen.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/runs/served/rounds/1", "/searches/8", "/searches/8/table"])
def test_no_page_has_a_serious_fault_of_access(
    browser: Any, view_url: str, path: str, scheme: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    )
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(view_url + path)
    if path == "/searches/8":
        page.wait_for_selector("#tree[data-ready]")
    found = axe.Axe().run(page).response["violations"]
    serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found]
    context.close()


def test_an_exported_page_works_from_a_file(
    browser: Any, viewed_config: Config, tmp_path: Any
) -> None:
    from agent.cli.commands.view import export

    out = tmp_path / "tree.html"
    export(viewed_config, 5, str(out))
    seen = Seen(browser)
    seen.goto(f"file://{out}")
    seen.ready()
    assert seen.page.evaluate("window.hurt") is None and not seen.errors
    assert seen.page.locator("[role=treeitem]").count() >= 1
    seen.page.close()
