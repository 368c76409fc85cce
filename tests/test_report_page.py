"""The report's page in a real browser: silent, alone, for everybody, on a phone, in the dark and on paper."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from croco import promote, report
from croco.page.frame import framed
from tests import chromium, reported
from tests.conftest import DatasetOf
from tests.evaluations import Model, evaluations, weights

pytestmark = pytest.mark.browser
OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"
SHOWN = (
    "[...document.querySelectorAll('#answers-texts .sample')]"
    ".filter(one => one.checkVisibility()).map(one => one.className).sort()"
)

DRAWN = (
    "[...document.querySelectorAll('.charts svg')].filter(one => one.checkVisibility() && one.clientWidth > 99).length"
)
VIEWER = '<!doctype html><iframe sandbox="allow-scripts" srcdoc="{}" style="width: 100%; min-height: 600px"></iframe>'
"""How the UI of Kubeflow Pipelines shows an HTML artifact. Source: its HTMLViewer.tsx."""


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[chromium.Page]:
    with chromium.tab(tmp_path / "profile") as tab:
        yield tab


@pytest.fixture
def page(dataset_of: DatasetOf, tmp_path: Path) -> Path:
    """A report of every section, with hostile texts, on evaluations in two languages, and its decision."""
    given: dict[str, Any] = reported.everything(dataset_of, tmp_path)
    judged = evaluations(tmp_path / "given", Model(weights("c"), gain={"da": 3.0, "de": -3.0}))
    judged.pop("training")
    promote.run(**judged, out=tmp_path / "decided")
    report.run(out=tmp_path / "out", **given | judged | {"decision": tmp_path / "decided"})
    return tmp_path / "out" / "report.html"


def worse(page: Path, old: str, new: str) -> Path:
    """The page with a fault, which shows that it would be seen."""
    text = page.read_text(encoding="utf-8")
    assert old in text
    path = page.with_name("worse.html")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_hostile_page_is_silent_and_asks_for_nothing(
    tab: chromium.Page, dataset_of: DatasetOf, tmp_path: Path
) -> None:
    report.run(out=tmp_path / "out", **reported.everything(dataset_of, tmp_path))
    page = tmp_path / "out" / "report.html"
    tab.go(page)
    tab.run(OPEN)
    assert tab.said() == []
    assert tab.asked() == [page.as_uri()]
    assert tab.run("document.querySelector('#answers-texts .tuned pre').textContent").startswith(
        "</style></pre><script>"
    )
    tab.go(worse(page, "</main>", "<img src='https://example.invalid/x.png'><script>1</script></main>"))
    assert len(tab.said()) == 2  # the page's own policy refuses both, and we would see it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_axe_finds_no_serious_fault_and_nothing_scrolls_sideways(
    tab: chromium.Page, page: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    tab.look(width=width, scheme=scheme)
    tab.go(page)
    for state in ("as-it-opens", "with-everything-open"):
        tab.shoot(tmp_path / f"report-{width}-{scheme}-{state}.png")  # to be looked at
        assert tab.faults() == []
        assert tab.run("document.documentElement.scrollWidth") == width
        tab.run(OPEN)


def test_axe_would_find_a_fault(tab: chromium.Page, page: Path) -> None:
    tab.go(worse(page, "--soft: #55606d", "--soft: #c5cad0"))
    assert any(fault.startswith("color-contrast (serious)") for fault in tab.faults())


def chosen(tab: chromium.Page) -> list[list[str]]:
    """Which texts are shown, by class, while arrow keys go through the languages."""
    tab.run("document.querySelector('#answers-texts').querySelector('input:checked').focus()")
    seen = []
    for _ in range(3):
        seen.append(sorted(set(tab.run(SHOWN))))
        tab.press("ArrowRight")
    return seen


def test_the_language_of_the_texts_is_chosen_with_keys_alone(tab: chromium.Page, page: Path) -> None:
    tab.go(page)
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "Skip to the summary"
    assert chosen(tab) == [["sample l1"], ["sample l2"], ["sample l1", "sample l2"]]


def test_the_frame_of_kubeflows_ui_takes_nothing_from_the_page(tab: chromium.Page, page: Path) -> None:
    tab.go(page)
    charts = tab.run(DRAWN)
    ui = page.with_name("ui.html")
    ui.write_text(VIEWER.format(html.escape(framed(page.read_text(encoding="utf-8")))), encoding="utf-8")
    tab.go(ui)
    tab.enter()
    assert tab.run("self.origin") == "null"  # it is sandboxed
    assert tab.run(DRAWN) == charts > 10
    assert chosen(tab) == [["sample l1"], ["sample l2"], ["sample l1", "sample l2"]]
    tab.run("document.querySelector('nav a[href=\"#ledger\"]').click()")
    assert tab.run("location.href") == "about:srcdoc#ledger"
    assert 0 <= tab.run("document.querySelector('#ledger').getBoundingClientRect().top") < 100
    assert tab.said() == []
    assert tab.asked() == [ui.as_uri()]
    tab.go(worse(ui, "&lt;/main&gt;", "&lt;img src='https://example.invalid/x.png'&gt;&lt;/main&gt;"))
    assert len(tab.said()) == 1  # what happens in the frame is seen


def test_paper_has_what_the_screen_folds_away_and_no_controls(tab: chromium.Page, page: Path) -> None:
    tab.look(width=800, scheme="dark", media="print")
    tab.go(page)
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("[...document.querySelectorAll('nav, .filter')].every(one => !one.offsetParent)")
    assert tab.run("[...document.querySelectorAll('details > .scroll')].every(one => one.checkVisibility())")
    assert set(tab.run(SHOWN)) == {"sample l1", "sample l2"}
