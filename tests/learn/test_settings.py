"""Settings: the same keys as words, in a file and from a caller; a wrong one is named, with the nearest that exists."""

from pathlib import Path
from typing import Any

import pytest

from lego_fusion.data.dataset import Dataset
from lego_fusion.errors import DataError, ParameterError
from lego_fusion.fusion.registry import FUSIONS, make_plain_fusion, options_of
from lego_fusion.learn.configuration import TrainingConfig
from lego_fusion.learn.methods import make_default_fusion
from lego_fusion.learn.settings import Settings, as_word, full_key, parse_value, read_settings, settings_text

WORDS = ["fusion.references=512", "fusion.orders=[1, 3]", "prior_departure=1e1", "training.k=5", "nodes=16", "smoothing=0"]
SAME = {
    "flat": "fusion.references: 512\nfusion.orders: [1, 3]\nprior_departure: 1e1\ntraining.k: 5\nnodes: 16\nsmoothing: 0\n",
    "tables": "fusion: {references: 512, orders: [1, 3]}\ntraining: {prior_departure: 10, k: 5}\nnodes: 16\nsmoothing: 0\n",
    "by name": "lego:\n  references: 512\n  orders:\n  - 1\n  - 3\nprior_departure: 10\nk: 5\nnodes: 16\nsmoothing: 0\n",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_a_file_says_what_words_say(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    training = TrainingConfig(prior_departure=10.0, k=5)
    expected = Settings(training, {"lego": {"references": 512, "orders": [1, 3]}}, nodes=16, smoothing=0.0)
    assert read_settings(tmp_path / "settings.yaml") == read_settings(words=WORDS) == expected


def test_words_and_callers_go_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("fusion: {references: 512, kept: 2}\nsteps: 7\nk: 9\nhidden: 4\n")
    found = read_settings(tmp_path / "settings.yaml", ["fusion.references=64", "hidden=8"], {"steps": 3})
    assert found.options_of("lego") == {"references": 64, "kept": 2}
    assert (found.training.steps, found.training.k, found.hidden, found.nodes) == (3, 9, 8, 32)


def test_nothing_said_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_settings() == read_settings(tmp_path / "empty.yaml") == Settings()
    assert Settings().options_of("lego") == {}


def test_of_several_fusions_each_has_its_own() -> None:
    words = ["lego.references=512", "lego-paper.zero_order=ones", "lego-paper.order.motion=3", "mlp.hidden=8", "iterations=9"]
    found = read_settings(words=words, fusions=["lego", "lego-paper", "mlp"])
    expected = {"lego": {"references": 512}, "lego-paper": {"zero_order": "ones", "order": {"motion": 3}}, "mlp": {"hidden": 8}}
    assert found.options == expected
    assert found.training.iterations == 9


@pytest.mark.usefixtures("unchecked_types")  # 2 is a number where a float is expected
@pytest.mark.parametrize("kind", FUSIONS)
def test_every_option_of_every_fusion_can_be_set_to_its_default(kind: str, planted: Dataset) -> None:
    """As a word and back; options that then change nothing say so."""
    usual = make_default_fusion(kind, planted.modalities)
    for name in set(options_of(kind)) - set(usual.idle_options()):
        value = usual.config()[name]
        found = read_settings(words=[f"fusion.{name}={as_word(value)}"], fusions=[kind]).options_of(kind)
        assert make_default_fusion(kind, planted.modalities, options=found).config() == usual.config()
    assert not set(options_of(kind)) & {"modalities", "nodes", "seed", "window", "units"}


@pytest.mark.parametrize(
    ("words", "fusions", "said"),
    [
        (
            ["fusion.refrences=3"],
            ["lego"],
            r"unknown key 'fusion.refrences'.*expected one of fusion.references, .*write 'fusion.references'",
        ),
        (["references=3"], ["lego"], "write 'fusion.references'"),
        (["fusion.references=3"], ["lego", "concat"], "write 'lego.references'"),
        (["lego.keep=2"], ["lego", "mlp"], "expected one of lego.references, .*write 'lego.kept'"),
        (["lego.keep=2"], ["lego"], "write 'fusion.kept'"),
        (["mlp.width=3"], ["lego"], "'mlp.width' is of another fusion.*leave it out, or name mlp too"),
        (["fusion.nodes=3"], ["lego"], "write 'nodes'"),
        (["fusion.seed=3"], ["lego"], "write 'seed'"),
        (["fusion.units=3"], ["lego"], "unknown key 'fusion.units'"),
        (["stpes=3"], ["lego"], "write 'steps'"),
        (["training.iteration=3"], ["lego"], "expected one of training.steps, .*write 'training.iterations'"),
        (["zzz=3"], ["lego"], "unknown key 'zzz'.*remove it"),
        (["fusion.=3"], ["lego"], "unknown key 'fusion.'"),
        (["fusion.order.=3"], ["lego-paper"], "unknown key 'fusion.order.'"),
        (["steps"], ["lego"], "not a setting .*expected KEY=VALUE, got 'steps'"),
        (["=3"], ["lego"], "not a setting"),
        (["fusion.orders=[1"], ["lego"], "not a value"),
        (["steps=many"], ["lego"], "wrong value of 'steps'.*got 'many'"),
        (["iterations=0"], ["lego"], "wrong value of 'iterations'"),
        (["nodes=0"], ["lego"], r"'nodes' parameter of the settings must be an int in \[1, inf\)"),
        (["hidden=1.5"], ["lego"], "'hidden' parameter of the settings"),
        (["smoothing=-1"], ["lego"], "smoothing"),
        (["k=1", "training.k=2"], ["lego"], "'training.k' is set twice.*got 1 and 2"),
        (
            ["fusion.order=1", "fusion.order.motion=2"],
            ["lego-paper"],
            "'fusion.order' is set both for all modalities and for one",
        ),
        (["accelerator=quantum"], ["lego"], "unknown accelerator"),
    ],
)
def test_wrong_words_are_refused(words: list[str], fusions: list[str], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        read_settings(words=words, fusions=fusions)


def test_a_key_of_the_command_and_of_a_word_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"'training\.steps' is set twice"):
        read_settings(words=["steps=1"], given={"steps": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fusion: {refs: 3}\n", r"settings.yaml.*write 'fusion"),
        ("steps: 1\ntraining: {steps: 2}\n", "'training.steps' is set twice"),
        ("fusion: 3\n", "unknown key 'fusion'"),
        ("- steps\n", "the settings are not a table"),
        ("steps: [1\n", "not a YAML file"),
        ("steps: x\n", r"wrong value of 'steps'.*settings.yaml"),
        ("1: 2\n", "unknown key '1'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(ParameterError, match=said):
        read_settings(tmp_path / "settings.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml"):
        read_settings(tmp_path / "none.yaml")


def test_full_keys_and_values() -> None:
    assert full_key("steps", ["lego"]) == full_key("training.steps", ["lego", "mlp"]) == "training.steps"
    assert full_key("lego-paper.order.my-motion", ["lego-paper"]) == "fusion.order.my-motion"
    values: dict[str, Any] = {"1e-3": 1e-3, "-2.5E2": -250.0, "[1e1, x]": [10.0, "x"], "null": None, "true": True, "1e": "1e"}
    assert {text: parse_value(text) for text in values} == values
    assert [parse_value(as_word(value)) for value in values.values()] == list(values.values())


# --- what the fusions themselves say of a wrong value -----------------------------------------------------------------

WRONG = ("many", -1, 1.5, [1.5], ["a"], {"motion": 1.5}, float("nan"))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("kind", FUSIONS)
def test_a_value_that_no_option_takes_is_one_clear_error(kind: str, planted: Dataset) -> None:
    for name in options_of(kind):
        for value in WRONG:
            if isinstance(value, float) and name in ("bandwidth_exponent", "pseudo_videos", "time_context") and value > 0:
                continue  # numbers
            with pytest.raises(ParameterError, match=name):
                make_default_fusion(kind, planted.modalities, options={name: value})


def test_an_option_by_modality_keeps_its_default_for_the_others(planted: Dataset) -> None:
    made = make_default_fusion("lego-paper", planted.modalities, options={"order": {"text": 4}, "relations": {"motion": "dot"}})
    assert made.config()["order"] == {"motion": 2, "text": 4}
    assert made.config()["relations"] == {"motion": "dot", "text": "cosine"}
    with pytest.raises(ParameterError, match=r"'smell' is no modality.*motion, text"):
        make_default_fusion("lego-paper", planted.modalities, options={"order": {"smell": 4}})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lego", {"order": 3}),
        ("lego", {"operator": "learned", "form": "full", "rank": 2}),
        ("lego-paper", {"normalisation": "none"}),
    ],
)
def test_an_option_that_changes_nothing_is_refused(kind: str, options: dict[str, Any], planted: Dataset) -> None:
    with pytest.raises(ParameterError, match=f"the option '{list(options)[-1]}' of {kind} changes nothing beside the others"):
        make_default_fusion(kind, planted.modalities, options=options)
    made = make_default_fusion(
        "lego", planted.modalities, options={"operator": "learned", "order": 3, "form": "joint", "rank": 2}
    )
    assert made.idle_options() == ()


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_printed_settings_are_the_defaults_and_are_read_back(fusion: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(settings_text(fusion))
    settings = read_settings(path, fusions=[fusion])
    assert settings.training == TrainingConfig()
    assert (settings.nodes, settings.hidden, settings.smoothing) == (32, 32, Settings().smoothing)
    made = make_plain_fusion(fusion, {"a": 3, "b": 2}, **settings.options_of(fusion), asked=tuple(settings.options_of(fusion)))
    assert made.config() == make_plain_fusion(fusion, {"a": 3, "b": 2}).config()
    keys = [line for line in path.read_text().splitlines() if not line.strip().startswith("#")]
    assert path.read_text().count("# ") >= len(keys) - 2
