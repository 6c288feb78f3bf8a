"""What a person is used to, in Chromium: nothing jumps, the back button, exact times, files that open."""

from __future__ import annotations

import base64
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect
from support.checkpoints import EXECUTOR, genesis
from support.ui_browser import WAIT, Served, in_a_thread, require_chromium, rows, served, signed_in
from support.ui_runs import make_articles, make_queued, make_schedules

from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, Task
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.transfer import import_runs

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(240), pytest.mark.xdist_group("chromium")]

expect.set_options(timeout=WAIT)

MOST_SHIFT = 0.1
"""Up to here, a cumulative layout shift is good: https://web.dev/articles/cls."""

_OBSERVE = """
window.shifts = [];
new PerformanceObserver(list => { for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifts.push(
    [each.value, each.sources.map(one => `${one.node?.nodeName} ${one.node?.getAttribute?.("class")}`)]
); }).observe({ type: "layout-shift", buffered: true });
"""


@dataclass(frozen=True)
class Place:
    """A served store.

    Attributes:
        served: the pages.
        ids: the runs by their kind.
        file: the store.
    """

    served: Served
    ids: dict[str, str]
    file: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_chromium()
    folder = tmp_path_factory.mktemp("ui")
    file = folder / "runs.sqlite"

    async def fill() -> dict[str, str]:
        async with SQLiteCheckpointer(file) as store:
            await make_queued(store)
            await make_schedules(store)
            return await make_articles(store, folder)

    ids = in_a_thread(fill())
    with served(file, write=True, graphs=[folder / "article.yaml"]) as pages:
        yield Place(pages, ids, file)


@pytest.fixture
def page(chromium: Browser, place: Place) -> Iterator[Page]:
    context = chromium.new_context(
        viewport={"width": 1160, "height": 900}, locale="en-GB", timezone_id="Asia/Kolkata", accept_downloads=True
    )
    context.set_default_timeout(WAIT)
    context.add_init_script(_OBSERVE)
    seen = signed_in(context, place.served)
    yield seen.page
    assert seen.complaints == []
    context.close()


def write(place: Place, *checkpoints: Checkpoint) -> None:
    """Store checkpoints as another process does."""

    async def store() -> None:
        async with SQLiteCheckpointer(place.file) as opened:
            for checkpoint in checkpoints:
                await opened.write(checkpoint)

    in_a_thread(store())


def until(page: Page, is_so: Callable[[], bool]) -> None:
    """Let the browser go on until something is so."""
    deadline = time.monotonic() + WAIT / 1000
    while not is_so():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def assert_still(page: Page) -> None:
    page.wait_for_timeout(300)  # the browser reports a shift after the frame that shows it
    shifts: list[Any] = page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) <= MOST_SHIFT, shifts


@pytest.mark.parametrize("width", [1160, 400])
def test_pages_do_not_jump_while_they_load(page: Page, place: Place, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for path in ("/", f"/runs/{place.ids['failed']}", f"/runs/{place.ids['waiting']}", "/queues", "/schedules"):
        page.goto(f"{place.served.origin}{path}")
        if path == "/":
            expect(page.locator(".plot figure")).to_be_visible()
        if path == "/queues":
            expect(page.get_by_role("heading", name="Workers", exact=True)).to_be_visible()
            expect(page.locator("tr[data-row=lost]").first).to_be_attached()
        if path.startswith("/runs"):
            expect(page.locator(".graph svg")).to_be_visible()
            expect(page.locator(".lineage")).to_be_attached()
            expect(page.locator(".step").last).to_be_attached()
        assert_still(page)


def test_the_list_does_not_jump_when_runs_come_and_change(page: Page, place: Place) -> None:
    page.goto(f"{place.served.origin}/")
    expect(page.locator(".plot figure")).to_be_visible()
    for number in range(3):
        first = genesis(run_id=f"new-{number}", timestamp=datetime.now(UTC))
        write(place, first)
        expect(page.locator(f"tr[data-row=new-{number}]")).to_contain_text("running")
        write(place, first.next(event="paused", status="paused", executor_id=EXECUTOR, timestamp=datetime.now(UTC)))
        expect(page.locator(f"tr[data-row=new-{number}]")).to_contain_text("paused")
    assert_still(page)


def test_a_run_does_not_jump_when_it_goes_on_asks_and_fails(page: Page, place: Place) -> None:
    nodes = [{"id": f"node-{number}", "kind": "echo"} for number in range(9)]
    record = genesis(
        run_id="followed",
        timestamp=datetime.now(UTC),
        definition={"graph": {"id": "triage", "nodes": nodes, "rules": []}},
        frontier=(Task(id="0000-node-0", node="node-0", since_step=0),),
    )
    write(place, record)
    page.goto(f"{place.served.origin}/runs/followed")
    expect(page.locator(".graph svg")).to_be_visible()
    for number in range(8):
        at = datetime.now(UTC)
        record = record.next(
            event="completed",
            executor_id=EXECUTOR,
            timestamp=at,
            last_node=f"node-{number}",
            task_id=f"{number:04}-node-{number}",
            task_started_at=at - timedelta(seconds=0.1),
            changes={f"field {number}": ["text"] * number},
            frontier=(Task(id=f"{number + 1:04}-node-{number + 1}", node=f"node-{number + 1}", since_step=number + 1),),
        )
        write(place, record)
        expect(page.locator("[data-detail] h2")).to_contain_text(f"Step {number + 1}")
    expect(page.locator(".gantt svg")).to_contain_text("node-7")
    assert_still(page)

    question = Interrupt(
        id="q", task_id="0008-node-8", node="node-8", prompt="Is it right?", asked_at=datetime.now(UTC)
    )
    asked = record.next(
        event="asked",
        status="awaiting_input",
        executor_id=EXECUTOR,
        timestamp=datetime.now(UTC),
        last_node="node-8",
        interrupts=(question,),
    )
    write(place, asked)
    expect(page.get_by_role("heading", name="Is it right?")).to_be_in_viewport()
    assert_still(page)
    page.get_by_role("button", name="Show it in the page").click()
    expect(page.locator(".charts")).to_be_visible()
    below = page.locator(".charts").bounding_box()
    question_box = page.locator(".question").bounding_box()
    assert below is not None
    assert question_box is not None
    assert question_box["y"] + question_box["height"] <= below["y"]


def test_the_last_step_is_shown_though_it_came_while_the_page_was_asked_for_again(page: Page, place: Place) -> None:
    record = genesis(run_id="hurried", timestamp=datetime.now(UTC))
    write(place, record)
    events: list[str] = []
    expected: list[str] = []
    browser = page.context.new_cdp_session(page)
    browser.send("Network.enable")
    browser.on("Network.eventSourceMessageReceived", lambda event: events.append(event["data"]))
    page.goto(f"{place.served.origin}/runs/hurried")
    expect(page.locator("[data-detail] h2")).to_contain_text("Step 0")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/runs/hurried", hold, times=1)
    for number in (1, 2):
        at = datetime.now(UTC)
        record = record.next(event="completed", executor_id=EXECUTOR, timestamp=at, last_node="a", task_id=f"{number}")
        write(place, record)
        expected.append(str(number))
        until(page, lambda: events == expected and len(held) == 1)
    held[0].continue_()
    expect(page.locator("[data-detail] h2")).to_contain_text("Step 2")


def test_what_somebody_types_is_kept_while_the_run_goes_on(page: Page, place: Place) -> None:
    def asked(*prompts: str) -> tuple[Interrupt, ...]:
        return tuple(
            Interrupt(id=each, task_id=each, node=each, prompt=f"Is {each} right?", asked_at=datetime.now(UTC))
            for each in prompts
        )

    record = genesis(run_id="typed", timestamp=datetime.now(UTC))
    waits: dict[str, Any] = {"event": "asked", "status": "awaiting_input", "executor_id": EXECUTOR}
    one = record.next(**waits, timestamp=datetime.now(UTC), last_node="a", interrupts=asked("a"))
    two = one.next(**waits, timestamp=datetime.now(UTC), last_node="b", interrupts=asked("a", "b"))
    three = two.next(**waits, timestamp=datetime.now(UTC), last_node="c", interrupts=asked("a", "b", "c"))
    write(place, record, one)
    page.goto(f"{place.served.origin}/runs/typed")
    answer = page.locator("form:has([name=question][value=a]) textarea")
    answer.fill('"yes"')
    write(place, two)
    expect(page.locator("[data-detail] h2")).to_contain_text("Step 2")
    expect(answer).to_be_focused()
    expect(page.get_by_role("heading", name="Is b right?")).to_have_count(0)
    page.get_by_role("heading", name="typed").click()
    expect(page.get_by_role("heading", name="Is b right?")).to_be_attached()
    expect(answer).to_have_value('"yes"')
    write(place, three)
    expect(page.get_by_role("heading", name="Is c right?")).to_be_attached()
    expect(answer).to_have_value('"yes"')


def test_a_part_that_has_not_changed_keeps_the_focus_of_a_keyboard(page: Page, place: Place) -> None:
    record = genesis(run_id="kept", timestamp=datetime.now(UTC))
    then: dict[str, Any] = {"timestamp": datetime.now(UTC), "executor_id": EXECUTOR}
    one = record.next(event="pause_requested", **then)
    two = one.next(event="pause_requested", **then)
    write(place, record)
    page.goto(f"{place.served.origin}/runs/kept")
    write(place, one)
    expect(page.get_by_text("Pause now").first).to_be_attached()
    expect(page.locator("[data-detail] h2")).to_contain_text("Step 1")
    cancel = page.locator("#do-cancel summary")
    cancel.focus()
    write(place, two)
    expect(page.locator("[data-detail] h2")).to_contain_text("Step 2")
    expect(cancel).to_be_focused()


def test_child_runs_are_shown_once_and_the_list_goes_on_when_they_are_closed(page: Page, place: Place) -> None:
    write(place, genesis(run_id="parent", timestamp=datetime.now(UTC)))
    write(place, genesis(run_id="child", parent_run_id="parent", parent_step=0, origin="subgraph"))
    page.goto(f"{place.served.origin}/?roots=1")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/runs/parent/children?*", hold)
    button = page.get_by_role("button", name="Child runs of parent")
    for _ in range(3):
        button.click()
    until(page, lambda: len(held) == 2)
    for route in held:
        route.continue_()
    expect(page.locator("tr[data-row=child]")).to_be_visible()
    total = page.locator("[data-region=chips] a").first
    before = total.text_content()
    write(place, genesis(run_id="newcomer", timestamp=datetime.now(UTC)))
    expect(total).not_to_have_text(before or "")
    assert [each for each in rows(page) if each in ("newcomer", "parent", "child")] == ["parent", "child"]
    button.click()
    expect(page.locator("tr[data-row=newcomer]")).to_be_visible()


def test_an_old_answer_does_not_replace_a_newer_one(page: Page, place: Place) -> None:
    record = genesis(run_id="overtaken", timestamp=datetime.now(UTC))
    write(place, record)
    page.goto(f"{place.served.origin}/runs/overtaken")
    expect(page.locator(".gantt")).to_contain_text("No node has run yet")
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/runs/overtaken/charts", lambda route: held.append((route, route.fetch())), times=1)
    for number in (1, 2):
        at = datetime.now(UTC)
        record = record.next(
            event="completed",
            executor_id=EXECUTOR,
            timestamp=at,
            last_node=f"node-{number}",
            task_id=f"{number}",
            task_started_at=at,
        )
        write(place, record)
        until(page, lambda: len(held) == 1)
    expect(page.locator(".gantt")).to_contain_text("node-2")
    route, answer = held[0]
    route.fulfill(response=answer)
    page.wait_for_timeout(300)  # the page has taken the answer by then, or this sees no fault where there is one
    expect(page.locator(".gantt")).to_contain_text("node-2")


def test_times_are_local_and_the_exact_one_is_on_hover(page: Page, place: Place) -> None:
    page.goto(f"{place.served.origin}/runs/{place.ids['done']}")
    expect(page.locator(".step").last).to_be_attached()
    times = page.locator("time").evaluate_all(
        "found => found.map(one => [one.dateTime, one.dataset.form, one.textContent, one.title])"
    )
    assert {form for _, form, _, _ in times} == {"age", "full", "clock"}
    for text, form, shown, title in times:
        moment = datetime.fromisoformat(text) + timedelta(hours=5.5)
        assert title.endswith(f"\n{text}")
        assert f"{moment:%H:%M:%S}" in title
        assert shown.endswith(("ago", "now") if form == "age" else f"{moment:%H:%M:%S}"), form
    bars = page.locator(".gantt rect title").filter(has_text=re.compile("^plan: .* UTC, step 2$", re.DOTALL))
    expect(bars).to_have_count(1)


def test_drawings_are_files_that_open_anywhere(page: Page, chromium: Browser, place: Place) -> None:
    elsewhere = chromium.new_page()
    elsewhere.set_default_timeout(WAIT)
    for path, links in (("/", ".plot a[download]"), (f"/runs/{place.ids['done']}", ".charts a[download]")):
        page.goto(f"{place.served.origin}{path}")
        expect(page.locator(links).first).to_be_visible()
        for link in page.locator(links).all():
            with page.expect_download() as started:
                link.click()
            name, data = started.value.suggested_filename, started.value.path().read_bytes()
            assert name.endswith(".svg")
            assert ET.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
            assert b"var(" not in data  # the styles of the page do not come along
            elsewhere.set_content(f"<img src='data:image/svg+xml;base64,{base64.b64encode(data).decode()}'>")
            expect(elsewhere.locator("img")).to_have_js_property("complete", value=True)
            assert elsewhere.evaluate("document.images[0].naturalWidth") > 100, name
    elsewhere.close()


def test_the_portable_file_holds_the_run(page: Page, place: Place, tmp_path: Path) -> None:
    page.goto(f"{place.served.origin}/runs/{place.ids['done']}")
    with page.expect_download() as started:
        page.get_by_role("link", name="Portable file").click()
    file = tmp_path / started.value.suggested_filename
    started.value.save_as(file)

    async def moved() -> tuple[list[Checkpoint], list[Checkpoint]]:
        async with SQLiteCheckpointer(place.file) as source, SQLiteCheckpointer(tmp_path / "other.sqlite") as target:
            with file.open("rb") as stream:
                await import_runs(target, stream)
            run_id = place.ids["done"]
            return [each async for each in source.history(run_id)], [each async for each in target.history(run_id)]

    there, here = in_a_thread(moved())
    assert len(there) > 10
    assert [each.digest for each in there] == [each.digest for each in here]


def test_going_back_shows_what_was_there(page: Page, place: Place) -> None:
    page.goto(f"{place.served.origin}/?status=failed")
    before = rows(page)
    page.get_by_label("Order").select_option("updated")
    page.wait_for_url("**order=updated*")
    page.get_by_label("Hide child runs").check()
    page.wait_for_url("**roots=1*")
    page.go_back()
    expect(page.get_by_label("Order")).to_have_value("updated")
    expect(page.get_by_label("Hide child runs")).not_to_be_checked()
    page.go_back()
    expect(page.get_by_label("Order")).to_have_value("")
    assert rows(page) == before
    page.locator(f"a[href$='{place.ids['failed']}']").first.click()
    page.wait_for_url(f"**/runs/{place.ids['failed']}")
    page.go_back()
    assert rows(page) == before
    assert page.url.endswith("/?status=failed")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    first = genesis(run_id="after-going-back", timestamp=datetime.now(UTC))
    error = ErrorInfo(type="ValueError", message="no", reason="bad")
    write(
        place,
        first,
        first.next(event="failed", status="failed", executor_id=EXECUTOR, timestamp=datetime.now(UTC), error=error),
    )
    expect(page.locator("tr[data-row=after-going-back]")).to_be_visible()


def test_keys_work_wherever_a_pointer_clicked(page: Page, place: Place) -> None:
    for path, heading in (("/", "Runs"), ("/queues", "Queues and workers")):
        page.goto(f"{place.served.origin}{path}")
        expect(page.locator("[data-list] [data-row]").first).to_be_visible()
        page.get_by_role("heading", name=heading, exact=True).click()
        page.keyboard.press("j")
        chosen = page.locator("[data-list] .is-current").get_attribute("data-row")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/runs/{chosen}")


def test_enter_opens_the_row_whatever_had_the_focus_before(page: Page, place: Place) -> None:
    page.goto(f"{place.served.origin}/")
    expect(page.locator("[data-list] [data-row]").first).to_be_visible()
    page.locator(".brand").focus()
    page.keyboard.press("j")
    page.keyboard.press("j")
    chosen = page.locator("[data-list] .is-current").get_attribute("data-row")
    expect(page.locator("[data-list] .is-current a[href]").first).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{chosen}")


@pytest.mark.parametrize(("width", "is_named"), [(1280, False), (400, True)])
def test_figures_are_named_where_a_table_has_no_head(page: Page, place: Place, width: int, is_named: bool) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{place.served.origin}/queues")
    figures = page.locator("[data-region=queues] td.num")
    expect(figures.first).to_be_visible()
    assert figures.count() >= 6
    named = figures.evaluate_all("all => all.map(each => getComputedStyle(each, '::before').content !== 'none')")
    assert set(named) == {is_named}


@pytest.mark.parametrize("width", [1280, 1160, 900, 400])
def test_no_choice_is_cut(page: Page, place: Place, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for path in ("/", "/schedules"):
        page.goto(f"{place.served.origin}{path}")
        assert page.locator("select").count() > 0
        cut = page.evaluate("""() => [...document.querySelectorAll("select")].filter(each => {
            const whole = each.cloneNode(true);
            whole.style.width = "max-content";
            whole.style.position = "absolute";
            each.after(whole);
            const isCut = whole.offsetWidth > each.offsetWidth + 1;
            whole.remove();
            return isCut;
        }).map(each => each.name)""")
        assert cut == [], path
