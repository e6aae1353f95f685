"""The page as a person meets it, in a real browser: hover, choose a moment, dark, narrow; nothing is asked of a network."""

import re
from pathlib import Path
from typing import Any

import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.learn.scoring import score_dataset
from lego_fusion.report.pictures import Pictures
from lego_fusion.report.run_report import report_pictures, run_report, save_report

pytest.importorskip("plotly", reason="pip install 'lego-fusion[report]'")
CURVE = "document.getElementById('curve')"


@pytest.fixture(scope="module")
def page(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = run_report(made.run("lego"), Dataset.open(made.data))
    return save_report(tmp_path_factory.mktemp("page") / "report.html", report, report_pictures(report))


def pixel(browser: Any, seconds: float) -> tuple[float, float]:
    """Where a time of the curve is in the window, in the middle of its height."""
    x = browser.run(f"{CURVE}._fullLayout.xaxis.d2p({seconds}) + {CURVE}._fullLayout.xaxis._offset")
    box = browser.box("#curve")
    return box["x"] + x, box["y"] + box["height"] / 2


def shown(browser: Any) -> tuple[int, int]:
    """The moment that is shown, and the one that is chosen."""
    return tuple(int(browser.run(f"document.body.dataset.{name}")) for name in ("moment", "chosen"))  # type: ignore[return-value]


def test_it_opens_on_the_peak_without_a_complaint_or_a_request(browser: Any, page: Path, made: Any) -> None:
    browser.open(page)
    assert browser.run("document.getElementById('video-name').textContent") == "odd"
    peak = int(score_dataset(made.run("lego"), Dataset.open(made.data), ["odd"])[0].scores.argmax()) // 8
    assert browser.run("JSON.parse(document.getElementById('data').textContent).videos[1].moments").__len__() == 8
    assert 3 <= shown(browser)[0] <= 5  # frames 24 to 47 are abnormal, in segments of 8
    assert 3 <= peak <= 5
    assert len(browser.run("[...document.querySelectorAll('#graphs .js-plotly-plot')].map(() => 1)")) == 3
    assert browser.run("document.querySelectorAll('#operator').length") == 0  # nothing of it is learned
    assert "What was learned" in browser.run("document.body.textContent")
    titles = "[...document.querySelectorAll('#graphs .js-plotly-plot')].map((one) => one.layout.xaxis.title.text)"
    assert all(re.fullmatch(r"known normal segments, \d+ of 32", title) for title in browser.run(titles))
    assert browser.complaints() == []
    assert [url for url in browser.fetched() if not url.startswith("data:")] == [page.as_uri()]


def test_the_curve_that_is_drawn_is_high_where_it_is_abnormal(browser: Any, page: Path) -> None:
    browser.open(page)
    x, y = (browser.run(f"Array.from({CURVE}.data[0].{axis})") for axis in "xy")
    inside = [value for time, value in zip(x, y, strict=True) if 2.4 < time < 4.8]
    outside = [value for time, value in zip(x, y, strict=True) if time < 2.4 or time > 4.8]
    assert min(inside) > max(outside)


def test_hover_looks_and_click_chooses(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('curve').scrollIntoView({block: 'center'})")
    _, chosen = shown(browser)
    x, y = pixel(browser, 0.4)
    browser.move(x, y)
    browser.wait("document.body.dataset.moment === '0'")
    assert shown(browser) == (0, chosen)
    assert "0.0 s to 0.8 s" in browser.run("document.getElementById('moment-where').textContent")
    box = browser.box("#verdict")
    browser.move(box["x"], box["y"])
    browser.wait(f"document.body.dataset.moment === '{chosen}'")
    x, y = pixel(browser, 6.0)
    browser.move(x, y)
    browser.click(x, y)
    browser.wait("document.body.dataset.chosen === '7'")
    browser.move(box["x"], box["y"])
    assert shown(browser) == (7, 7)
    rows = browser.run("document.querySelector('#graphs .js-plotly-plot').layout.shapes.map((one) => [one.y0, one.y1])")
    assert rows == [[6.5, 7.5], [6.5, 7.5]]
    assert browser.complaints() == []


def test_a_row_of_a_graph_the_slider_and_a_peak_choose_a_moment(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('graphs').scrollIntoView({block: 'center'})")
    plot = "document.querySelector('#graphs .js-plotly-plot')"
    y = browser.run(f"{plot}._fullLayout.yaxis.d2p(1) + {plot}._fullLayout.yaxis._offset")
    box = browser.box("#graphs .js-plotly-plot")
    place = (box["x"] + box["width"] / 2, box["y"] + y)
    browser.move(*place)
    browser.click(*place)
    browser.wait("document.body.dataset.chosen === '1'")
    slide = "const one = document.getElementById('moment'); one.value = 2; one.dispatchEvent(new Event('input'))"
    browser.run(f"(() => {{ {slide} }})()")
    browser.wait("document.body.dataset.chosen === '2'")
    browser.run("document.querySelector('#peaks button').click()")
    browser.wait("document.body.dataset.moment === document.body.dataset.chosen && Number(document.body.dataset.chosen) > 2")


def test_another_video_and_the_score_are_one_click_away(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('tr[data-video=\"0\"] button').click()")
    browser.wait("document.getElementById('video-name').textContent === 'calm'")
    assert "No event" in browser.run("document.getElementById('verdict').textContent")
    assert browser.run("document.querySelector('tr[aria-selected=true] button').textContent") == "calm"
    before = browser.run(f"Array.from({CURVE}.data[0].y)")
    browser.run("document.querySelector('input[value=score]').click()")
    after = browser.run(f"Array.from({CURVE}.data[0].y)")
    assert min(before) < 0
    assert all(0 <= value <= 1 for value in after)
    assert browser.run(f"{CURVE}.layout.yaxis.title.text") == "score"
    assert browser.complaints() == []


@pytest.mark.parametrize("prefers_dark", [False, True])
def test_dark_and_light_are_the_readers_choice(browser: Any, page: Path, prefers_dark: bool) -> None:
    def lightness() -> list[float]:
        colour = browser.run("getComputedStyle(document.body).backgroundColor")
        drawn = browser.run(f"{CURVE}.layout.font.color")
        paper = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 765
        return [paper, sum(int(drawn[n : n + 2], 16) for n in (1, 3, 5)) / 765]

    browser.open(page, dark=prefers_dark)
    paper, ink = lightness()
    assert (paper < 0.2 and ink > 0.8) if prefers_dark else (paper > 0.8 and ink < 0.2)
    browser.run("document.getElementById('theme').click()")
    paper, ink = lightness()
    assert (paper < 0.2 and ink > 0.8) if not prefers_dark else (paper > 0.8 and ink < 0.2)
    assert browser.run("document.querySelectorAll('#graphs .js-plotly-plot').length") == 3


def test_a_telephone_shows_it_without_scrolling_sideways(browser: Any, page: Path) -> None:
    browser.open(page, width=390, height=844, touch=True)
    browser.wait(f"Math.abs({CURVE}._fullLayout.width - {CURVE}.clientWidth) <= 1")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    edges = "[...document.querySelectorAll('.js-plotly-plot, .tile, .card')].map((one) => one.getBoundingClientRect().right)"
    assert max(browser.run(edges)) <= 390
    browser.run("document.getElementById('theme').click()")
    assert browser.complaints() == []


def test_other_models_are_shown_without_a_complaint(browser: Any, made: Any, tmp_path: Path) -> None:
    for method, graphs, operators in (("concat", 0, 0), ("fixed", 3, 0), ("paper", 3, 1)):
        report = run_report(made.run(method), Dataset.open(made.data), videos=["odd"])
        browser.open(save_report(tmp_path / f"{method}.html", report, Pictures()))
        assert browser.run("document.querySelectorAll('#graphs .js-plotly-plot').length") == graphs
        assert browser.run("document.querySelectorAll('#operator .js-plotly-plot').length") == operators
        browser.run("document.getElementById('theme').click()")
        assert browser.complaints() == []
