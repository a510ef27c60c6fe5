"""The page in a real browser: no error, no request, sorting, tips, zoom, and A4 paper. Needs Chromium.

pytest -m browser
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hand_made import command

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,900",
)  # fmt: skip
A4_POINTS = (595, 842)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binaries = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in binaries:
        pytest.skip("no chromium and chromedriver on the path (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binaries[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=binaries[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=["sweep", "run"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    if request.param == "sweep":
        folder = request.getfixturevalue("recommended")[0]
    else:
        folder = out.parent / "run"
        scenario = Path(__file__).parents[2] / "scenarios/quick.yaml"
        command("run", str(scenario), "--out", str(folder), "--set", "repetitions=2")
    command("report", str(folder), "--out", str(out))
    return out


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    return browser


def test_loads_alone(opened: Any, page: Path) -> None:
    """No console message, and no request but for the file itself."""
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}


def test_sorts(opened: Any) -> None:
    """Numbers by value up and down, texts by the alphabet."""
    table = opened.find_element("css selector", "section:last-of-type table, main table")
    headings = [button.text for button in table.find_elements("css selector", "th button")]
    column = headings.index("tokens/s")
    button = table.find_elements("css selector", "th button")[column]

    def values() -> list[float]:
        return opened.execute_script(
            "return [...arguments[0].tBodies[0].rows].map(row => Number(row.cells[arguments[1]].dataset.value))",
            table, column,
        )  # fmt: skip

    before = values()
    assert len(before) >= 4
    button.click()
    assert values() == sorted(before)
    button.click()
    assert values() == sorted(before, reverse=True)
    assert table.find_elements("css selector", "th")[column].get_attribute("aria-sort") == "descending"
    table.find_elements("css selector", "th button")[0].click()
    names = [row.find_element("css selector", "td").text for row in table.find_elements("css selector", "tbody tr")]
    assert names == sorted(names, key=str.lower)


def test_hovers_and_zooms(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tip = opened.find_element("id", "tip")
    assert not tip.is_displayed()
    part = opened.find_element("css selector", "[id^='timeline_'][data-tip]")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
    ActionChains(opened).move_to_element(part).perform()
    assert tip.is_displayed()
    assert "layers (" in tip.text
    ActionChains(opened).move_to_element(opened.find_element("css selector", "h2")).perform()
    assert not tip.is_displayed()

    svg = opened.find_element("css selector", ".drawing svg")

    def view() -> list[float]:
        return opened.execute_script("return arguments[0].getAttribute('viewBox').split(' ').map(Number)", svg)

    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -200, ctrlKey: arguments[1], clientX: 300, "
    wheel += "clientY: 300, cancelable: true}))"
    whole = view()
    opened.execute_script(wheel, svg, False)
    assert view() == whole
    opened.execute_script(wheel, svg, True)
    assert view()[2] < whole[2]
    opened.execute_script("arguments[0].dispatchEvent(new MouseEvent('dblclick'))", svg)
    assert view() == whole


def test_prints_on_a4(opened: Any) -> None:
    """A4 pages, none of them wider than the paper: nothing is cut off at the right."""
    settings = {"preferCSSPageSize": True, "printBackground": True}
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", settings)["data"])
    boxes = re.findall(rb"/MediaBox ?\[ ?0 0 ([\d.]+) ([\d.]+)", pdf)
    assert len(boxes) >= 2
    for width, height in boxes:
        assert (float(width), float(height)) == pytest.approx(A4_POINTS, abs=1.5)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )  # 210 mm less both margins, at 96 dots per inch
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide <= 688
