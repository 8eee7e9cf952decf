"""How fast a tree's page comes up in Chromium, and how smoothly it is moved."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.config.load import load_config
from agent.service.listening import Server, listening, settings_of, url_of
from agent.service.view_server import view_app
from scripts.bench.report import Row, counted, missing, repeats
from scripts.bench.served import questions, serving
from scripts.bench.trees import add_tree

PAN = """async () => {
  const canvas = document.querySelector("canvas.graph");
  const box = canvas.getBoundingClientRect();
  const send = (kind, x, y) =>
    canvas.dispatchEvent(
      new PointerEvent(kind, { clientX: x, clientY: y, pointerId: 1, bubbles: true }));
  canvas.setPointerCapture = () => {};
  send("pointerdown", box.left + 200, box.top + 200);
  let frames = 0;
  const began = performance.now();
  await new Promise((done) => {
    const frame = () => {
      frames += 1;
      send("pointermove", box.left + 200 + (frames % 100), box.top + 200 + (frames % 50));
      if (performance.now() - began < 1500) requestAnimationFrame(frame);
      else done();
    };
    requestAnimationFrame(frame);
  });
  return frames / ((performance.now() - began) / 1000);
}"""
READY = "() => performance.getEntriesByName('tree-ready')[0].startTime"
HOSTILE = (
    "<script>window.hurt=1</script>",
    "</script><script>window.hurt=1</script>",
    "<img src=x onerror=window.hurt=1>",
    "<svg onload=window.hurt=1><animate onbegin=window.hurt=1 attributeName=x dur=1s>",
    "<style>*{display:none}</style>",
    "[x](javascript:window.hurt=1) <a href=javascript:window.hurt=1>y</a>",
    "$$\\def\\x{\\x\\x}\\x$$",
    "x" * 5_000_000,
)
PAGES = {
    "runs": "/",
    "round": "/runs/served/rounds/1",
    "search": "/searches/{search}",
}


def measured(num: int, screenshots: Path | None) -> Iterator[Row]:
    """Milliseconds until a tree's page answers, and frames a second while it is dragged."""
    screenshots = screenshots.resolve() if screenshots else None
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield missing("tree_ready_ms", "not installed: pip install playwright")
        return
    if chromium is None:
        yield missing("tree_ready_ms", "needs Debian's chromium-headless-shell")
        return
    # The pages name their store, and pictures of them go into documents: a path of no machine.
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        _searched(folder)
        store = "sqlite:///ratchet-runs/ratchet.db"
        numbers = {size: add_tree(store, size) for size in (1_000, 20_000)}
        hostile = add_tree(store, 100, HOSTILE)
        bound = listening("127.0.0.1", 0)
        server = Server(settings_of(view_app(load_config({"store": store})[0])))
        thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        base = f"{url_of(bound)}/view"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            for size, search in numbers.items():
                ready, frames = [], []
                for _ in range(num + 1):
                    page = browser.new_page(viewport={"width": 1400, "height": 1000})
                    page.goto(f"{base}/searches/{search}")
                    page.wait_for_selector("#tree[data-ready]", timeout=60_000)
                    ready.append(float(page.evaluate(READY)))
                    frames.append(float(page.evaluate(PAN)))
                    page.close()
                target = 300 if size == 1_000 else 1_500
                what = f"{size:,} nodes, from the request to a page that answers"
                yield repeats(f"tree_ready_ms_{size}", ready[1:], "ms", what, target=target)
                yield repeats(f"pan_frames_{size}", frames[1:], "1/s", "dragging", target=50)
            yield from _hostile(browser, f"{base}/searches/{hostile}")
            if screenshots is not None:
                screenshots.mkdir(parents=True, exist_ok=True)
                for page_name, path in PAGES.items():
                    page = browser.new_page(viewport={"width": 1200, "height": 1250})
                    page.goto(base + path.format(search=1))
                    page.evaluate("window.scrollTo(0, 0)")
                    page.wait_for_timeout(1_000)
                    page.screenshot(path=screenshots / f"view-{page_name}.png")
                    page.close()
            browser.close()
        server.should_exit = True
        thread.join(10)


def _hostile(browser: Any, address: str) -> Iterator[Row]:
    """A tree whose steps are markup, scripts, styles and a line of five megabytes."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#tree[data-ready]", timeout=60_000)
    ready = float(page.evaluate(READY))
    for ix in range(len(HOSTILE)):
        page.goto(f"{address}#node={ix}")
        page.wait_for_timeout(300)
    hurt = int(bool(page.evaluate("window.hurt")))
    own = address.split("/view")[0]
    yield counted("hostile_texts_that_ran", hurt, "texts", len(HOSTILE), "each opened as a node")
    foreign = sum(not url.startswith(own) for url in asked)
    yield counted("requests_to_other_hosts", foreign, "requests", len(asked), "all its own")
    told = "a step of five megabytes among them"
    yield counted("hostile_tree_ready_ms", round(ready), "ms", 1, told, 1_000)
    page.close()


def _searched(folder: Path) -> None:
    """A store with searches that found more than one text."""
    import httpx2 as httpx

    with serving(folder, "--no-tool", "--set", "search.stop_decided=false") as server:
        for question, _ in questions(12, 8):
            body = server.body(question, search={"simulations": 24, "max_tokens": 4_000})
            httpx.post(f"{server.url}/chat/completions", json=body, timeout=120)
        server.stop()
