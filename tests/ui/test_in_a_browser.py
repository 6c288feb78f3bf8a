"""The pages in Chromium: what a person sees and does, and that nothing is refused, leaked or inaccessible."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from support.ui_browser import WAIT, Seen, Served, in_a_thread, require_chromium, rows, served, signed_in
from support.ui_runs import COUNTER, graph_file, make_articles, make_hostile, make_long, make_queued, make_schedules

from stargraph.checkpoint.sqlite import SQLiteCheckpointer

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(240), pytest.mark.xdist_group("chromium")]

expect.set_options(timeout=WAIT)


@dataclass(frozen=True)
class Place:
    """A served store.

    Attributes:
        served: the pages.
        ids: the runs by their kind.
        file: the store.
        folder: where its graphs are.
    """

    served: Served
    ids: dict[str, str]
    file: Path
    folder: Path


async def _filled(file: Path, folder: Path) -> dict[str, str]:
    async with SQLiteCheckpointer(file) as store:
        ids = await make_articles(store, folder)
        await make_hostile(store)
        await make_long(store, 20_000)
        await make_long(store, 3, run_id="large", state_bytes=20_000_000)
        await make_queued(store)
        await make_schedules(store)
    return ids


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_chromium()
    folder = tmp_path_factory.mktemp("ui")
    file = folder / "runs.sqlite"
    ids = in_a_thread(_filled(file, folder))
    graphs = [folder / "article.yaml", graph_file(folder, COUNTER, "counter.yaml")]
    with served(file, write=True, graphs=graphs) as pages:
        yield Place(pages, ids, file, folder)


@pytest.fixture
def seen(chromium: Browser, place: Place) -> Iterator[Seen]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    yield signed_in(context, place.served)
    context.close()


def test_the_list_is_filtered_and_its_address_can_be_shared(seen: Seen, place: Place) -> None:
    page = seen.page
    assert "token" not in page.url
    page.get_by_role("link", name="failed").first.click()
    expect(page.locator("tbody tr")).to_have_count(2)
    assert set(rows(page)) == {place.ids["failed"], "broken"}
    page.get_by_label("Search").fill("PRINTER")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert rows(page) == [place.ids["failed"]]
    page.get_by_label("Graph").fill("nothing-like-it")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    assert "graph=nothing-like-it" in page.url
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{place.served.origin}/?graph=loop")
    assert set(rows(page)) == {"long", "large"}


def test_the_keyboard_is_enough(seen: Seen) -> None:
    page = seen.page
    page.goto(f"{page.url}?order=updated")
    expect(page.locator("tbody tr").first).to_be_visible()
    expect(page.locator("[data-help]")).to_be_visible()
    order = rows(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect(page.locator("tr.is-current")).to_have_attribute("data-row", order[1])
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("[data-search]")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{order[1]}")
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()


def test_a_run_of_another_process_is_followed_and_can_be_held(seen: Seen, place: Place) -> None:
    page = seen.page
    page.goto(f"{place.served.origin}/?graph=counter")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    command = [sys.executable, "-m", "stargraph", "run", str(place.folder / "counter.yaml"), "-i", "rounds=400"]
    command += ["--checkpoint", str(place.file), "--run-id", "counted", "--quiet"]
    import support

    environment = {"PYTHONPATH": str(Path(support.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        expect(page.locator("tr[data-row=counted]")).to_be_visible(timeout=WAIT)
        page.goto(f"{place.served.origin}/runs/counted")
        expect(page.locator("[data-region=status]")).to_contain_text("done", timeout=120_000)
        process.wait(60)
    expect(page.locator("[data-detail] h2")).to_contain_text("Step", timeout=WAIT)
    page.locator("[data-live-toggle]").click()
    expect(page.locator("[data-live-toggle]")).to_have_attribute("aria-pressed", "false")
    assert seen.complaints == []


def test_a_tab_that_nobody_sees_holds_no_connection(seen: Seen, place: Place) -> None:
    page, console = seen.page, place.served.app.state.console
    page.goto(f"{place.served.origin}/")
    for state, streams in (("visible", 1), ("hidden", 0), ("visible", 1)):
        page.evaluate(
            "state => { Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            state,
        )
        deadline = time.monotonic() + 60
        while console.streams != streams and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert console.streams == streams, state
    assert seen.complaints == []


def test_a_question_is_answered_and_the_run_resumed(seen: Seen, place: Place) -> None:
    page = seen.page
    page.goto(f"{place.served.origin}/runs/{place.ids['waiting']}")
    expect(page.get_by_role("heading", name="Publish the article on databases?")).to_be_visible()
    expect(page.locator(".question .command")).to_contain_text("stargraph respond")
    page.get_by_label("yes").check()
    page.get_by_role("button", name="Answer").click()
    expect(page.locator("[data-region=status]")).to_contain_text("done", timeout=WAIT)
    assert seen.complaints == []


def test_a_run_is_forked_with_another_state_and_compared(seen: Seen, place: Place) -> None:
    page = seen.page
    page.goto(f"{place.served.origin}/runs/{place.ids['done']}?step=13")
    page.get_by_text("Fork from this step").click()
    page.get_by_label("Field of the state").fill("score")
    page.get_by_label("Its value, as JSON").fill("0.1")
    page.get_by_role("button", name="Fork and run").click()
    page.wait_for_url("**/diff?a=*")
    expect(page.locator("[data-region=sides]")).to_contain_text("waiting", timeout=WAIT)
    expect(page.locator("[data-region=pairs]")).to_contain_text("score")
    assert seen.complaints == []


def test_a_run_is_deleted_only_if_its_id_is_typed(seen: Seen, place: Place) -> None:
    page = seen.page
    page.goto(f"{place.served.origin}/runs/{place.ids['cancelled']}")
    page.locator("#do-delete summary").click()
    page.get_by_label("Type the id of the run to confirm").fill("something else")
    page.locator("#do-delete button.danger").click()
    expect(page.get_by_role("alert")).to_contain_text("was not deleted")
    page.goto(f"{place.served.origin}/runs/{place.ids['cancelled']}")
    page.locator("#do-delete summary").click()
    page.get_by_label("Type the id of the run to confirm").fill(place.ids["cancelled"])
    page.locator("#do-delete button.danger").click()
    page.wait_for_url(f"{place.served.origin}/")
    assert place.ids["cancelled"] not in rows(page)


def test_twenty_thousand_steps_are_a_short_list(seen: Seen, place: Place) -> None:
    page = seen.page
    page.goto(f"{place.served.origin}/runs/long")
    expect(page.locator(".step[data-step='19999']")).to_be_visible()
    assert page.locator(".step").count() <= 300
    page.evaluate("document.querySelector('[data-steps]').scrollTop = 34 * 9000")
    expect(page.locator(".step[data-step='9000']")).to_be_visible()
    page.locator(".step[data-step='9005'] a").click()
    expect(page.locator("[data-detail] h2")).to_contain_text("9\u202f005")
    assert page.url.endswith("?step=9005")
    page.keyboard.press("j")
    page.wait_for_url("**?step=9006")
    expect(page.locator("[data-detail] h2")).to_contain_text("9\u202f006")
    page.go_back()
    expect(page.locator("[data-detail] h2")).to_contain_text("9\u202f005")
    expect(page.locator(".gantt svg")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.getElementsByTagName('*').length") < 15_000
    assert seen.complaints == []


def test_a_state_of_twenty_megabytes_is_opened_part_by_part(seen: Seen, place: Place) -> None:
    page = seen.page
    answer = page.goto(f"{place.served.origin}/runs/large")
    assert answer is not None
    assert len(answer.body()) < 60_000
    page.locator("summary", has_text="rows").first.click()
    expect(page.get_by_role("button", name="Show more")).to_be_visible()
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("details[data-tree]")).to_have_count(200)
    page.get_by_placeholder("Search in the state").fill("77777x")
    expect(page.locator("[data-found]")).to_contain_text("rows[77777].text")
    assert seen.complaints == []


@pytest.mark.parametrize(
    "path", ["/", "/runs/hostile", "/runs/hostile?step=0", "/runs/hostile/diff?a=0&b=1", "/schedules"]
)
def test_hostile_texts_do_nothing(seen: Seen, place: Place, path: str) -> None:
    page = seen.page
    page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
    page.goto(f"{place.served.origin}{path}")
    expect(page.locator("[data-help]")).to_be_visible()
    page.evaluate("for (const each of document.querySelectorAll('.tree details')) each.open = true")
    assert page.title() != "owned"
    assert page.locator("main img, main script, main iframe").count() == 0
    assert seen.complaints == []
    assert seen.hosts == {place.served.origin.split("/")[2]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_are_accessible_and_fit(chromium: Browser, place: Place, scheme: Any, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    # axe is injected by evaluation, which the policy of the pages allows to the devtools alone.
    seen = signed_in(context, place.served)
    page = seen.page
    failed, done, rejected = (place.ids[kind] for kind in ("failed", "done", "rejected"))
    for path in (
        "/",
        f"/runs/{failed}",
        "/runs/hostile",
        "/queues",
        "/schedules",
        f"/diff?a={done}&b={rejected}",
        "/runs/none",
    ):
        page.goto(f"{place.served.origin}{path}")
        if path.startswith("/runs/") and path != "/runs/none":
            expect(page.locator(".graph svg")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
        results = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        found = [
            (rule["id"], node["target"], node["failureSummary"][:300])
            for rule in results.response["violations"]
            for node in rule["nodes"][:2]
        ]
        assert found == [], path
    assert [each for each in seen.complaints if "404" not in each] == []
    assert seen.hosts == {place.served.origin.split("/")[2]}
    context.close()


def test_a_second_browser_cannot_use_the_link_again(chromium: Browser, place: Place) -> None:
    link = place.served.link()
    first, second = chromium.new_context(), chromium.new_context()
    first.set_default_timeout(WAIT)
    second.set_default_timeout(WAIT)
    assert first.new_page().goto(link).status == 200  # type: ignore[union-attr]
    assert second.new_page().goto(link).status == 401  # type: ignore[union-attr]
    first.close()
    second.close()
