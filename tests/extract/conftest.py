"""Made pictures, small rendered videos, a tiny network and a tiny text model, all local."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lego_fusion.data.video import Frame
from lego_fusion.scenes.render import SceneSet, render_scenes
from probing import VideoInfo


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., list[Frame]]:
    """Turn pictures (n, h, w, 3) into frames at a rate."""

    def make(pictures: np.ndarray, fps: float = 10.0) -> list[Frame]:
        return [Frame(i, i / fps, np.ascontiguousarray(picture)) for i, picture in enumerate(pictures)]

    return make


@pytest.fixture(scope="session")
def texture() -> np.ndarray:
    """A smooth random RGB picture, (200, 320, 3), the same at every call."""
    cv2 = pytest.importorskip("cv2", reason="pip install 'lego-fusion[video]'")
    rough = np.random.default_rng(0).normal(size=(200, 320, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 3)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_timeline() -> Callable[..., VideoInfo]:
    """Describe a sound video by its number of frames and rate, or by the times of its frames."""

    def make(frames: int, fps: float = 10.0, times: np.ndarray | None = None) -> VideoInfo:
        times = np.arange(frames) / fps if times is None else times
        return VideoInfo(Path("made.mp4"), frames, fps, width=8, height=8, times=times, problem=None, notes=())

    return make


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Write pictures (n, h, w, 3) as an mp4 whose index comes first, so that a cut file still decodes in part."""
    av = pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")

    def write(path: Path, pictures: np.ndarray, fps: int = 10) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("mpeg4", rate=fps)
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.gop_size = 1
            for index, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneSet:
    """Four rendered videos of 20 to 36 frames with captions, labels and ground truth; do not change them."""
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    folder = tmp_path_factory.mktemp("scenes")
    return render_scenes(folder, videos=4, frames=(20, 36), size=(64, 96), seed=3)


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of a few thousand random weights, saved with safetensors."""
    reason = "pip install 'lego-fusion[text]'"
    transformers = pytest.importorskip("transformers", reason=reason)
    pytest.importorskip("sentence_transformers", reason=reason)
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("text") / "tiny-model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "walks", "runs", "cart", "drives", "by"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))
    kinds = {"": "sentence_transformers.models.Transformer", "1_Pooling": "sentence_transformers.models.Pooling"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
