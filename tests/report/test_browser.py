"""The page in a real browser: what a reader presses does what it says, and nothing is cut or fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from longspan.records import Record, append_records
from longspan.report import write_report
from report.conftest import study_records

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser")) if path), None)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PATIENCE = 60_000
"""Milliseconds; a loaded machine starts a browser slowly."""
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of four arms, with extensions, long names and a score that has no chart of its own."""
    folder = tmp_path_factory.mktemp("books-256")
    records = study_records()
    costs = [
        Record(run="books", method="rope", model="rope", task="prefill", metric=metric, value=value * n, length=n)
        for n in (128, 256, 512)
        for metric, value in (("bytes", 4096.0), ("seconds", 0.001))
    ]
    append_records(folder / "records.jsonl", [*records, *costs])
    (folder / "study.yaml").write_text("train_length: 256\n" + f"a_long_line: {'word ' * 80}\n")
    return write_report([folder], folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page at a desk; it must say nothing on the console and fetch nothing but itself."""
    context = browser.new_context(viewport=DESKTOP)
    opened = context.new_page()
    said: list[str] = []
    fetched: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: fetched.append(request.url))
    opened.goto(address, timeout=PATIENCE)
    yield opened
    context.close()
    assert said == []
    assert fetched == [address]


def chip(page: Any, key: str, name: str) -> Any:
    return page.locator(f".group[data-key={key}] .chip").filter(has_text=name).first


def names(page: Any, chart: int = 0) -> list[str]:
    """The names at the ends of a chart's lines."""
    return page.locator(".chart").nth(chart).locator(".names text").all_text_contents()


def rows(page: Any, heading: str) -> list[str]:
    """Heads of the rows that can be seen in the table under `heading`."""
    found = page.locator(f"h3:text-is('{heading}') + .table tbody tr:visible th")
    return [text.strip() for text in found.evaluate_all("heads => heads.map(head => head.childNodes[1].textContent)")]


def test_an_arm_that_is_switched_off_leaves_charts_maps_and_tables(page: Any) -> None:
    assert "alibi" in names(page)
    assert "alibi" in rows(page, "perplexity")
    maps = page.locator(".map:visible").count()
    chip(page, "arm", "alibi").click()
    assert "alibi" not in names(page)
    assert "alibi" not in rows(page, "perplexity")
    assert page.locator(".map:visible").count() == maps - 1
    chip(page, "arm", "alibi").click()
    assert "alibi" in names(page)


def test_an_extension_can_be_added_and_all_at_once(page: Any) -> None:
    assert page.locator("#count").text_content().endswith(" of 13 lines")
    before = len(names(page))
    chip(page, "ext", "pi").click()
    assert len(names(page)) > before
    assert "rope + pi" in names(page)
    page.locator(".group[data-key=ext] .every").click()
    assert page.locator("#count").text_content() == "13 of 13 lines"
    assert len(rows(page, "perplexity")) == 13


def test_a_task_that_is_switched_off_is_gone_everywhere(page: Any) -> None:
    passkey = page.locator("[data-task=passkey]")
    assert passkey.locator("visible=true").count() > 0
    chip(page, "task", "passkey").click()
    assert passkey.locator("visible=true").count() == 0
    assert page.locator("[data-task=perplexity]").first.is_visible()


def test_a_length_that_is_switched_off_leaves_points_columns_and_cells(page: Any) -> None:
    path = page.locator(".chart").first.locator(".line:not(.off) .stroke").first
    points = path.get_attribute("d").count("L")
    columns = page.locator("h3:text-is('perplexity') + .table thead th:visible").count()
    chip(page, "length", "8k").click()
    assert path.get_attribute("d").count("L") == points - 1
    assert page.locator("h3:text-is('perplexity') + .table thead th:visible").count() == columns - 1
    assert page.locator(".heat path[data-length='8192']:visible").count() == 0
    assert page.locator(".heat path[data-length='4096']:visible").count() > 0


def test_a_column_sorts_by_its_numbers_both_ways(page: Any) -> None:
    table = page.locator("h3:text-is('perplexity') + .table")
    cells = "rows => rows.filter(row => row.offsetParent).map(row => +row.cells[7].dataset.v)"
    head = table.locator("thead .sort").nth(7)
    head.click()
    up = table.locator("tbody tr").evaluate_all(cells)
    assert up == sorted(up)
    assert len(set(up)) > 2
    head.click()
    assert table.locator("tbody tr").evaluate_all(cells) == sorted(up, reverse=True)
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_a_table_is_copied_as_csv_with_its_intervals(browser: Any, address: str, study: list[Record]) -> None:
    context = browser.new_context(viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address, timeout=PATIENCE)
    page.locator("h3:text-is('perplexity') + .table .copy").click()
    page.locator("text=Copied").first.wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    context.close()
    assert lines[0].startswith('"arm, extension",128,128 low,128 high,256,')
    values = [r.value for r in study if (r.task, r.model, r.method, r.length) == ("perplexity", "rope", "rope", 128)]
    name, mean, low, high = lines[1].rsplit(",", 3 * 7)[0], *map(float, lines[1].split(",")[-21:][:3])
    assert name == '"rope, plain"'
    assert (mean, low, high) == pytest.approx((sum(values) / 2, min(values), max(values)), rel=1e-5)


def test_a_touch_tells_the_value_and_brings_the_line_forward(page: Any) -> None:
    chart = page.locator(".chart").first
    point = chart.locator(".line:not(.off) circle").nth(3)
    point.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # what scrolls hides the tip
    point.hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "1k tokens" in tip.text_content()
    assert chart.locator(".line.focus").count() == 1
    heat = page.locator(".heat:visible").first
    heat.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    heat.hover()
    assert "depth" in tip.text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_on_a_phone(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = context.new_page()
    page.goto(address, timeout=PATIENCE)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # whatever reaches beyond the screen lies in a box that scrolls sideways
    cut = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((item) => {
            const box = item.getBoundingClientRect();
            return box.width && (box.right > innerWidth + 1 || box.left < -1) && !item.closest(".scroll, .group, pre");
        }).map((item) => item.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    small = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll(".chart:not(.heat) text")].map((text) =>
            parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a).filter((size) => size))"""
    )
    assert small > 9.5
    assert page.locator(".legend:visible").count() > 0
    context.close()


def test_dark_mode_turns_the_ground_dark_and_the_ink_light(browser: Any, address: str) -> None:
    found = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport=DESKTOP, color_scheme=scheme)
        page = context.new_page()
        page.goto(address, timeout=PATIENCE)
        sums = "color => color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
        style = "getComputedStyle(document.body)"
        found[scheme] = [page.evaluate(f"({sums})({style}.{name})") for name in ("backgroundColor", "color")]
        context.close()
    assert found["light"][0] > 600 > 200 > found["light"][1]
    assert found["dark"][0] < 200 < 600 < found["dark"][1]


def test_memory_and_speed_have_charts_of_their_own(page: Any) -> None:
    section = page.locator("section", has=page.locator("h2:text-is('Memory and speed by length')"))
    assert section.locator("figcaption b").all_text_contents() == [
        "prefill: bytes by length",
        "prefill: seconds by length",
    ]
    assert "512 KiB" in section.locator(".chart").first.text_content()
