"""Debian's Chromium, driven by selenium, on one page of the disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from debian import install_packages
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}
WAIT_SECONDS = 10
POLL_SECONDS = 0.05
# A canvas counts as drawn once it was the same in this number of looks, one after the other.
STILL_LOOKS = 4
DESKTOP, TELEPHONE = (1280, 900), (390, 844)

# The pixels of the map, as the page draws them on transparent ground. They are read from a copy:
# Chromium warns of pages that read their own canvas again and again.
_PIXELS = """
const canvas = document.querySelector('[data-figure="map"] canvas');
const pixels = () => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
};
"""
_PICTURE = f"{_PIXELS} return canvas && pixels().some(Boolean) ? canvas.toDataURL() : '';"
_REMEMBER = f"{_PIXELS} window.remembered = pixels();"
_COUNT = f"""{_PIXELS}
let count = 0;
for (let data = pixels(), i = 0; i < data.length; i += 4) {{
  const near = [0, 1, 2].every((n) => Math.abs(data[i + n] - arguments[0][n]) <= 3);
  if (data[i + 3] > 150 && near) count += 1;
}}
return count;"""
_CHANGED = f"""{_PIXELS}
const [xs, ys] = [[], []];
const middle = (values) => (Math.min(...values) + Math.max(...values) + 1) / 2;
for (let data = pixels(), i = 0; i < data.length; i += 4) {{
  if ([0, 1, 2, 3].some((n) => data[i + n] !== window.remembered[i + n])) {{
    xs.push((i / 4) % canvas.width);
    ys.push(Math.floor(i / 4 / canvas.width));
  }}
}}
canvas.scrollIntoView({{block: "center", behavior: "instant"}});
const box = canvas.getBoundingClientRect();
const scale = box.width / canvas.width;
return [box.x + middle(xs) * scale, box.y + middle(ys) * scale];"""
_TOOLTIP = """
const tooltip = document.getElementById("tooltip");
const kinds = [...tooltip.querySelectorAll("*")].map((element) => element.localName);
return tooltip.hidden ? null : [[...tooltip.children].map((line) => line.textContent), kinds];"""


def install() -> None:
    """Install Debian's packages of Chromium where they are missing."""
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if missing:
        install_packages(missing)


def start(downloads: Path) -> webdriver.Chrome:
    """Start Chromium without a window; what it saves goes to the folder `downloads`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # Chromium has no sandbox for root.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Browser:
    """A page in Chromium, and what a reader does with it.

    downloads: the folder of saved files.
    """

    def __init__(self, driver: webdriver.Chrome, page: Path, downloads: Path) -> None:
        self.driver, self.url, self.downloads = driver, page.as_uri(), downloads

    def open(self, screen: tuple[int, int] = DESKTOP, *, colours: str = "light") -> None:
        """Open the page anew on a screen of this size, and wait until it is drawn."""
        self.emulate(colours)
        width, height = screen
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        self.command("Emulation.setScrollbarsHidden", hidden=True)
        self.driver.get(self.url)
        drawn = "return document.documentElement.dataset.drawn"
        self.wait_until(lambda: self.evaluate(drawn) == "yes", "the page says it is drawn")

    def emulate(self, colours: str, media: str = "") -> None:
        """Prefer colours, light or dark; media: print, or "" for the screen."""
        features = [{"name": "prefers-color-scheme", "value": colours}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def command(self, name: str, **values: Any) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(name, values)

    def evaluate(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until the condition holds; fail with `what` where it does not in time."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not in {WAIT_SECONDS} s: {what}"
            time.sleep(POLL_SECONDS)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements, whether they are seen or not."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return self.evaluate(script, selector)

    def style(self, selector: str, name: str) -> str:
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return self.evaluate(script, selector, name)

    def map_picture(self) -> str:
        """Return the map as it is once it does not change any more."""
        looks: list[str] = []

        def is_still() -> bool:
            looks.append(self.evaluate(_PICTURE))
            return bool(looks[-1]) and looks[-STILL_LOOKS:] == [looks[-1]] * STILL_LOOKS

        self.wait_until(is_still, "the map is drawn")
        return looks[-1]

    def count_pixels(self, colour: str) -> int:
        """Return how many pixels of the map have a colour, #rrggbb, nearly."""
        self.map_picture()
        return self.evaluate(_COUNT, list(bytes.fromhex(colour[1:])))

    def search(self, text: str, found: str) -> None:
        """Type into the field of ids; the page must say `found`."""
        script = "const field = document.getElementById('search'); field.value = arguments[0];"
        self.evaluate(f"{script} field.dispatchEvent(new Event('input'));", text)
        said = "return document.getElementById('found').textContent"
        self.wait_until(lambda: self.evaluate(said) == found, f"{text[:40]!r} has {found!r}")
        self.map_picture()

    def locate(self, name: str, found: str) -> tuple[float, float]:
        """Return where the one point of an id is on the screen: where its ring is drawn."""
        self.search("", "")
        self.evaluate(_REMEMBER)
        self.search(name, found)
        x, y = self.evaluate(_CHANGED)
        self.search("", "")
        return x, y

    def hover(self, x: float, y: float) -> tuple[list[str], list[str]] | None:
        """Move the mouse; return the tooltip's lines and its kinds of elements, None if hidden."""
        for step in (1, 0):
            self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y)
        time.sleep(2 * POLL_SECONDS)
        return self.evaluate(_TOOLTIP)

    def options(self, selector: str) -> list[str]:
        return [option.text for option in Select(self.find(selector)).options]

    def choose(self, selector: str, text: str) -> None:
        """Choose an option by its text."""
        Select(self.find(selector)).select_by_visible_text(text)

    def click(self, selector: str) -> None:
        script = "const element = document.querySelector(arguments[0]);"
        scroll = "element.scrollIntoView({block: 'center', behavior: 'instant'});"
        self.evaluate(script + scroll, selector)
        self.find(selector).click()

    def save(self, figure: str) -> Path:
        """Click "Save as SVG" of a figure, and return the file that was saved."""
        before = set(self.downloads.iterdir())
        self.click(f'[data-save="{figure}"]')

        def list_new() -> Sequence[Path]:
            new = set(self.downloads.iterdir()) - before
            return [path for path in new if path.suffix == ".svg" and path.stat().st_size]

        self.wait_until(list_new, f"{figure} is saved")
        return list_new()[0]

    def messages(self) -> list[str]:
        """Return warnings and errors on the console since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Return the URLs that were requested since the last call."""
        entries = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        sent = [entry["message"] for entry in entries]
        name = "Network.requestWillBeSent"
        return [one["params"]["request"]["url"] for one in sent if one["method"] == name]
