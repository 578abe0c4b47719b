"""The built site in headless Chromium, at two widths and in both colour schemes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.served import served

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
WIDTHS = (1280, 400)

# Loads page after page into a frame and writes what it saw into an attribute of its own.
WALK = """<!doctype html><body><script>
const pages = %s, widths = %s, seen = [];
const scheme = new URLSearchParams(location.search).get("scheme");
const frame = document.createElement("iframe");
frame.height = 900;
document.body.append(frame);
const later = (time) => new Promise((done) => setTimeout(done, time));
async function walk() {
  for (const width of widths) for (const page of pages) {
    frame.width = width;
    await new Promise((done) => { frame.onload = done; frame.src = page; });
    const inside = frame.contentDocument, broken = [];
    inside.body.setAttribute("data-md-color-scheme", scheme);
    for (const picture of inside.images) picture.loading = "eager";
    await Promise.all([...inside.images].map((x) => x.decode().catch(() => broken.push(x.src))));
    await later(60);
    const root = inside.documentElement;
    seen.push({
      page, width, broken,
      wide: root.scrollWidth - root.clientWidth,
      anchors: [...inside.querySelectorAll('a[href^="#"]')].map((x) => x.getAttribute("href"))
        .filter((x) => x.length > 1 && !inside.getElementById(decodeURIComponent(x.slice(1)))),
    });
  }
  document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
}
walk();
</script></body>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))
    pages.remove("404.html")
    (site / "walk.html").write_text(WALK % (json.dumps(pages), json.dumps(WIDTHS)), "utf-8")
    with served(site) as root:
        yield f"{root}/walk.html"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_every_page_fits_and_shows_its_pictures(scheme: str, address: str, site: Path) -> None:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
        "--virtual-time-budget=200000", "--enable-logging=stderr",
        "--dump-dom", f"{address}?scheme={scheme}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "Uncaught" not in done.stderr
    (found,) = re.findall(r'data-seen="([^"]*)"', done.stdout)
    seen = json.loads(unescape(found))
    assert len(seen) == len(WIDTHS) * (len(list(site.rglob("*.html"))) - 2)  # no 404, no walk
    for look in seen:
        bad = {name: look[name] for name in ("wide", "broken", "anchors") if look[name]}
        assert not bad, (look["page"], look["width"], bad)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["huggingface", "peft", "lora", "custom norm", "learning rate"])
def test_the_search_finds(words: str, site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    texts = [f"{entry['title']} {entry['text']}".lower() for entry in index["docs"]]
    assert any(all(word in text for word in words.split()) for text in texts)
