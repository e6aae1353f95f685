"""Cards as files: one page without anything from elsewhere, every text escaped, JSON that comes back."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.alarm.events import Span
from lego_fusion.data.tables import VideoRecord
from lego_fusion.errors import DataError
from lego_fusion.report.cards import card_document, index_page, save_cards, video_page
from lego_fusion.report.charts import bar, parts_chart, score_chart
from lego_fusion.report.pages import environment, table
from lego_fusion.report.pictures import Pictures, find_video, load_pictures, overlay
from lego_fusion.report.words import headline, logit_text, percent_text, score_text, support_text, term_text
from lego_fusion.why.records import (
    ColumnPart,
    Counterfactual,
    EventExplanation,
    HeatMap,
    KnownRelation,
    NearestNormal,
    Parts,
    RelationPart,
    Segment,
    VideoExplanation,
    Word,
)

NASTY = '<script>alert("1")</script>&'


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether the tags are closed in order."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def explanation(video: str = "door", *, events: int = 1, exact: bool = True) -> VideoExplanation:
    here, normal = Segment(video, 16, 32), Segment("calm_1", 0, 16)
    parts = Parts(
        4.0,
        -2.0,
        {"motion": 5.0, "text": 1.0},
        {("motion",): 4.5, ("text",): 0.5, ("motion", "text"): 1.0},
        {1: 5.0, 2: 1.0},
        1e-8,
    )
    event = EventExplanation(
        span=Span(16, 48, 1.6, 4.8, 0.97),
        mean_score=0.9,
        segment=here,
        logit=4.0,
        parts=parts if exact else None,
        peak_parts=parts if exact else None,
        relations=(RelationPart(normal, {"motion": 2}, 3.0, {"motion": -0.2}, {"motion": 0.9}),) if exact else (),
        other_relations=3.0 if exact else 0.0,
        nearest=(
            NearestNormal(None, normal, 3.0, 1.0),
            NearestNormal("motion", normal, 4.0, 1.0),
            NearestNormal("text", normal, 1.0, 0.5),
        ),
        counterfactuals=(Counterfactual("motion", 0.31, -0.8, 0.96, 3.5), Counterfactual("text", 0.95, 3.0, 0.2, -1.4)),
        shapley={"motion": 0.7, "text": 0.2},
        score_without_all=0.07,
    )
    return VideoExplanation(
        run="run",
        dataset="yard",
        video=video,
        fps=10.0,
        threshold=0.5,
        scores=np.linspace(0, 1, 64),
        truth=np.arange(64) > 20,
        events=(event,) * events,
        segments=tuple(Segment(video, 16 * n, 16 * n + 16) for n in range(4)),
        by_modality={"motion": np.array([0.0, 3.0, 2.0, -1.0]), "text": np.zeros(4)} if exact else {},
        kinds={"motion": "motion", "text": "text"},
        removal="typical",
        removal_meaning="its relations are replaced",
        settings={"method": "lego"},
        normal_videos=("calm_1",),
    )


def of_known_normals(*, own: float = 0.0) -> VideoExplanation:
    """As the default explains itself: readings, columns, and known segments in place of relations inside the video."""
    one = explanation()
    event = one.events[0]
    readings = {"degree": 4.0 - own, "own video": own, "departure": 1.5, "near in time": 0.5}
    supports = {("motion",): 5.0, ("text",): 1.0}
    columns = (ColumnPart("motion", 3, "speed_peak", 1.2, 0.4), ColumnPart("text", 7, "column 7", -0.3, -0.1))
    parts = Parts(4.0, -2.0, {"motion": 5.0, "text": 1.0}, supports, {1: 3.0, 2: 1.0}, 1e-8, readings, columns, 1.1)
    known = [KnownRelation(None, Segment("calm_2", 16 * n, 16 * n + 16), 0.4 - 0.1 * n) for n in range(4)]
    known += [KnownRelation("motion", Segment("calm_3", 0, 16), 0.015)]
    event = replace(event, parts=parts, peak_parts=parts, relations=(), other_relations=0.0, known=tuple(known))
    world = "own world (alpha = 0.90): how unlike the rest" if own else "known world: how unlike the known normal segments"
    return replace(one, events=(event,), world=world)


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


# Words


def test_the_headline_says_where_how_high_and_why() -> None:
    one = explanation()
    assert headline(one, one.events[0]).replace("\N{NO-BREAK SPACE}", " ") == (
        "Frames 16 to 47 (1.6 to 4.8 s): abnormal with score 0.97. Mostly because it moves unlike any known normal segment; "
        "text agrees (17 %)."
    )


def test_a_modality_that_is_near_a_known_normal_is_not_said_to_be_unlike_all() -> None:
    one = explanation()
    near = replace(one.events[0], nearest=tuple(replace(n, unusual=0.2) for n in one.events[0].nearest))
    assert "although a normal segment much like it is known" in headline(one, near)
    against = replace(one.events[0].parts, by_modality={"motion": 7.0, "text": -1.0})  # type: ignore[type-var]
    assert "text speaks against it" in headline(one, replace(near, parts=against))


def test_in_its_own_world_it_is_unlike_the_rest_of_its_video() -> None:
    one = of_known_normals(own=3.5)
    assert "it moves unlike the rest of its own video" in headline(one, one.events[0])
    one = of_known_normals()
    assert "it moves unlike any known normal segment" in headline(one, one.events[0])
    near = replace(one.events[0], nearest=tuple(replace(n, unusual=0.2) for n in one.events[0].nearest))
    assert "as abnormal training videos do, although a normal segment much like it is known" in headline(one, near)


def test_without_terms_the_headline_tells_the_score_without_the_modality() -> None:
    one = explanation(exact=False)
    assert headline(one, one.events[0]).endswith("Without it the score would be 0.31.")


def test_numbers_in_words() -> None:
    assert [score_text(value) for value in (0.0, 0.5, 1.0)] == ["< 0.01", "0.50", "> 0.99"]
    assert [logit_text(value) for value in (0.0, -0.02, -3.04, 2.0)] == ["0", "−0.02", "−3.0", "+2.0"]
    assert percent_text(-0.001) == "0\N{NO-BREAK SPACE}%"
    assert percent_text(None) == ""
    assert support_text(()) == "constant"
    assert support_text(("a", "b")) == "a × b together"
    assert term_text({"a": 1, "b": 2, "c": 4}) == "a × b² × c^4"


# Pages


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("with_pictures", [True, False])
def test_a_page_is_one_file_without_anything_from_elsewhere(exact: bool, with_pictures: bool) -> None:
    pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    one = explanation(exact=exact)
    pictures = Pictures({segment: picture() for segment in one.shown_segments()}) if with_pictures else None
    page = Page(video_page(one, pictures))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:60])
        assert "://" not in value
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert all(images)
    assert len(images) == (3 if exact and with_pictures else 2 if with_pictures else 0)
    assert "0.97" in page.text


def test_every_text_is_escaped() -> None:
    one = explanation(video=NASTY)
    said = dict.fromkeys(one.shown_segments(), (NASTY,))
    event = replace(one.events[0], captions=(NASTY,), words=(Word("script", 1.0, 0.0),))
    one = replace(one, events=(event,), captions=said, dataset=NASTY, run=NASTY, settings={NASTY: NASTY}, removal_meaning=NASTY)
    for text in (video_page(one, Pictures(notes=[NASTY])), index_page([one], {NASTY: f"{NASTY}.html"})):
        page = Page(text)
        assert "script" not in page.tags
        assert NASTY in page.text
    assert Page(video_page(one, None)).text.count("alert") >= 4


def test_the_completeness_gap_and_the_settings_are_on_the_page() -> None:
    text = Page(video_page(explanation(), None)).text
    assert "completeness gap" in text
    assert "1e-08 logits" in text
    assert "typical: its relations are replaced" in text


def test_readings_columns_and_known_segments_stand_on_the_card() -> None:
    pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    one = of_known_normals()
    pictures = Pictures({segment: picture() for segment in one.shown_segments()})
    page = Page(video_page(one, pictures))
    for told in ("degree", "near in time", "speed_peak", "column 7", "+1.2", "−0.3", "The departure adds +2.0 logits in all"):
        assert told in page.text
    assert "Judged in the known world: how unlike the known normal segments" in page.text
    assert "calm_3, frames 0 to 15" in page.text  # of motion, in the table
    assert "0.015" in page.text
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert sum(alt.startswith("Compared with") for alt in images) == 3
    assert not any("calm_3" in alt for alt in images)
    assert "own video" not in page.text
    assert "own video" in Page(video_page(of_known_normals(own=3.5), None)).text
    card = json.loads(json.dumps(card_document(one, one.events[0]), allow_nan=False))
    assert card["parts"]["by_reading"]["departure"] == 1.5
    assert card["parts"]["columns"][0]["name"] == "speed_peak"
    assert card["known"][0] == {
        "modality": None,
        "segment": {"video": "calm_2", "start_frame": 0, "end_frame": 16},
        "value": 0.4,
    }
    assert one.document()["world"] == one.world


def test_small_parts_of_columns_are_one_sentence() -> None:
    one = of_known_normals()
    parts = one.events[0].parts
    assert parts is not None
    small = replace(parts, columns=tuple(replace(column, part=0.001) for column in parts.columns))
    text = Page(video_page(replace(one, events=(replace(one.events[0], parts=small),)), None)).text
    assert "No single column adds 0.005 or more." in text
    assert "speed_peak" not in text


def test_a_video_without_an_event_says_so() -> None:
    text = Page(video_page(explanation(events=0), None)).text
    assert "No event: no frame has a score of 0.5 or more. The highest score is > 0.99." in text


def drawn(macro: str, *values: object) -> str:
    return str(getattr(environment().get_template("macros.html").module, macro)(*values))


def test_charts_draw_spans_where_they_are() -> None:
    scores = np.array([0.0, 1.0, 1.0, 0.0])
    curve = drawn("chart", score_chart(scores, fps=2.0, threshold=0.5, events=[(1, 3)], truth=scores > 0.5))
    assert curve.count('x="250.00"') == 2  # the event and the ground truth
    assert curve.count('width="500.00"') == 2
    assert "M0 " in curve and "stroke-dasharray" in curve
    parts = drawn(
        "chart",
        parts_chart({"a": np.array([2.0, -1.0]), "b": np.array([1.0, 0.0])}, [(0, 8), (8, 10)], 10, fps=1.0, highest=[(8, 10)]),
    )
    assert 'x="800.00"' in parts
    assert "from -1.0 to 3.0 logits" in parts
    negative = drawn("bar", bar("a", -1.0, "-1", low=-1.0, high=3.0, fill="red"))
    assert "left:0.00%;width:25.00%" in negative
    assert "left:25.00%" in negative


def test_macros_escape_texts() -> None:
    page = Page(drawn("table", table(("<b>", "n"), [("<i>", NASTY)], words=1)))
    assert "<b>" in page.text and "<i>" in page.text and NASTY in page.text
    assert not {"b", "i", "script"} & set(page.tags)


# Pictures


def test_a_heat_map_lies_over_its_place() -> None:
    image = picture(20, 30)
    warm = overlay(image, HeatMap("motion", ((0.0, 1.0), (-1.0, 0.0))))
    changed = (warm != image).any(-1)
    assert changed[:10, 15:].all()
    assert not changed[:, :15].any()
    assert not changed[10:].any()
    assert (overlay(image, HeatMap("motion", ((0.0, -1.0),))) == image).all()
    mild = overlay(image, HeatMap("motion", ((0.0, 0.2), (0.0, 0.0))))  # a little novelty is not stretched to the full colour
    distance = [np.abs(one.astype(float) - image).sum() for one in (mild, warm)]
    assert 0.15 * distance[1] < distance[0] < 0.25 * distance[1]


def test_a_video_that_is_not_there_is_said_and_the_card_goes_on(tmp_path: Path) -> None:
    one = explanation()
    pictures = load_pictures([one], {"door": VideoRecord("door", "", 64, 10.0, file=str(tmp_path / "door.mp4"))})
    assert pictures.images == {}
    assert pictures.notes == [
        "no picture of door: its video file is not there",
        "no picture of calm_1: its video file is not there",
    ]
    text = Page(video_page(one, pictures)).text
    assert "no picture of door" in text
    assert "its video file is not there" in text


def test_a_video_is_found_by_its_source_or_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "door.mkv").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recording 7.mp4").touch()
    record = VideoRecord("door", "", 64, 10.0, file=str(tmp_path / "a" / "recording 7.mp4"))
    assert find_video("door", record) == tmp_path / "a" / "recording 7.mp4"
    assert find_video("door", record, tmp_path) == tmp_path / "door.mkv"
    assert find_video("other", replace(record, video="other"), tmp_path / "a") == tmp_path / "a" / "recording 7.mp4"
    assert find_video("door", None) is None


def test_a_damaged_video_is_a_note(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    (tmp_path / "door.mp4").write_bytes(b"no video")
    pictures = load_pictures([explanation()], {}, tmp_path)
    assert pictures.notes[0].startswith("no picture of door: not a video that can be read")


# Files


def test_cards_come_back_from_json_and_nothing_is_half_written(tmp_path: Path) -> None:
    one, calm = explanation(events=2), explanation("calm", events=0)
    files = save_cards(tmp_path, [one, calm])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"door.html", "calm.html", "index.html", "door-event-1.json", "door-event-2.json"}
    card = json.loads(files["events"][0].read_text())
    assert card == json.loads(json.dumps(card_document(one, one.events[0]), allow_nan=False))
    assert card["parts"]["by_support"] == {"motion": 4.5, "text": 0.5, "motion x text": 1.0}
    assert card["parts"]["shares"]["motion"] == pytest.approx(5 / 6, abs=1e-6)
    assert card["counterfactuals"][0] == {
        "modality": "motion",
        "without": 0.31,
        "without_logit": -0.8,
        "alone": 0.96,
        "alone_logit": 3.5,
    }
    assert card["relations"][0]["other"] == {"video": "calm_1", "start_frame": 0, "end_frame": 16}
    document = json.loads(json.dumps(one.document(), allow_nan=False))
    assert len(document["scores"]) == 64
    index = Page(files["index"][0].read_text())
    assert [value for tag, name, value in index.attributes if (tag, name) == ("a", "href")] == ["door.html", "calm.html"]
    save_cards(tmp_path, [explanation(events=1)])  # the second event is gone
    assert not (tmp_path / "door-event-2.json").exists()
    assert (tmp_path / "calm.html").exists()


def test_a_video_called_index_does_not_take_the_place_of_the_list(tmp_path: Path) -> None:
    files = save_cards(tmp_path, [explanation("index", events=0), explanation()])
    assert {path.name for path in files["pages"]} == {"index-video.html", "door.html"}
    assert "2 videos" in files["index"][0].read_text()


def test_cards_are_of_different_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cards are written for different videos"):
        save_cards(tmp_path / "out", [explanation(), explanation()])
    with pytest.raises(DataError, match="expected each video once, got none"):
        save_cards(tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
