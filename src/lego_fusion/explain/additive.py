"""How much of a model needs its modalities together: its best additive approximation (EMAP).

If a model that is a sum of one function per modality does as well, no interaction was used, whatever the architecture is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from ..errors import DataError, ParameterError, check_int
from .shapley import check_modalities

MOST_ROWS = 2**24  # combinations of samples that are predicted without a sample being drawn
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class AdditiveProjection:
    """A model's predictions beside those of its best additive approximation, on the same n samples.

    Args:
        predictions: Of the model (n, ...).
        additive: Of the approximation (n, ...).
        background: Combinations of samples that each mean was taken over; None where it was all of them.
        evaluations: Rows that the model predicted.
    """

    predictions: Float64[np.ndarray, "n ..."]
    additive: Float64[np.ndarray, "n ..."]
    background: int | None
    evaluations: int

    def gap(self, metric: Callable[[Any], float]) -> float:
        """What interactions are worth: metric(predictions) - metric(additive), 0 for an additive model."""
        return float(metric(self.predictions)) - float(metric(self.additive))


def emap(
    model: Callable[[Any], Any], features: Mapping[str, Any], *, background: int | None = None, seed: int = 0
) -> AdditiveProjection:
    """Project a model onto sums of one function per modality, under the product of the empirical distributions.

    f_add(x) = sum_m E[f(x_m, X_others)] - (M - 1) E[f(X)], where every modality of X is drawn on its own from the samples.
    Among all additive functions this is the closest to f in mean square over all n^M combinations of the samples.

    Args:
        model: Takes features by name with the samples along the first axis, returns one finite number or array per sample:
            logits rather than labels. A row's prediction must not depend on the other rows.
        features: Arrays or tensors by name, n samples each.
        background: None averages over all n^M combinations; a number R over R of them, drawn once, which keeps the gap of
            an additive model at zero.
        seed: Of the R combinations.

    Returns:
        Predictions of the model and of its projection on the n samples.

    Raises:
        ParameterError: If n^M is more than 2^24 and ``background`` is None.
        DataError: If modalities differ in their samples, or predictions are not finite or not one per sample.

    Source: Hessel and Lee, Does my multimodal model learn cross-modal interactions? (EMNLP 2020), algorithm 1.

    Example:
        >>> x = {"a": np.array([-1.0, 1.0, 1.0, -1.0]), "b": np.array([1.0, 1.0, -1.0, -1.0])}
        >>> emap(lambda rows: rows["a"] * rows["b"], x).additive.tolist()
        [0.0, 0.0, 0.0, 0.0]
        >>> emap(lambda rows: rows["a"] + 2 * rows["b"], x).additive.tolist()
        [1.0, 3.0, -1.0, -3.0]
    """
    names = check_modalities(list(features))
    samples = _samples(features)
    if background is not None:
        check_int(background, "background", "emap", low=1)
    elif samples ** len(names) > MOST_ROWS:
        raise ParameterError(
            f"all combinations of {samples} samples of {len(names)} modalities are {samples}^{len(names)}",
            expected=f"at most {MOST_ROWS}",
            got=samples ** len(names),
            fix="draw some of them with background=256, or give fewer samples",
        )
    rows = np.tile(np.arange(samples)[:, None], len(names))  # (n, M): every modality from its own sample
    predictions = np.concatenate(list(_predict(model, features, rows)))
    if background is None:
        effects, mean, asked = _effects_of_all(model, features, samples)
    else:
        drawn = np.random.default_rng(seed).integers(0, samples, size=(background, len(names)))
        effects, mean, asked = _effects_of_drawn(model, features, samples, drawn)
    additive = sum(effects) - (len(names) - 1) * mean
    return AdditiveProjection(predictions, np.asarray(additive), background, asked + samples)


def _effects_of_all(
    model: Callable[[Any], Any], features: Mapping[str, Any], samples: int
) -> tuple[list[Float64[np.ndarray, "n ..."]], Float64[np.ndarray, "*shape"], int]:
    """Mean prediction given each sample of each modality, over all n^M combinations, which are never held at once."""
    count = samples ** len(features)
    sums: list[Any] = [0.0] * len(features)
    for start in range(0, count, _BATCH):
        flat = np.arange(start, min(start + _BATCH, count))
        rows = np.stack(np.unravel_index(flat, (samples,) * len(features)), axis=1)
        (predictions,) = _predict(model, features, rows)
        for place in range(len(features)):
            part = np.zeros((samples, *predictions.shape[1:]))
            np.add.at(part, rows[:, place], predictions)
            sums[place] = sums[place] + part
    effects = [total * samples / count for total in sums]
    return effects, np.asarray(effects[0].mean(0)), count


def _effects_of_drawn(
    model: Callable[[Any], Any], features: Mapping[str, Any], samples: int, drawn: Int64[np.ndarray, "r m"]
) -> tuple[list[Float64[np.ndarray, "n ..."]], Float64[np.ndarray, "*shape"], int]:
    """The same over R combinations, the same ones for every sample and modality."""
    effects = []
    for place in range(len(features)):
        rows = np.tile(drawn, (samples, 1))  # (n R, M), R neighbours belong to one sample
        rows[:, place] = np.repeat(np.arange(samples), len(drawn))
        predictions = np.concatenate(list(_predict(model, features, rows)))
        effects.append(predictions.reshape(samples, len(drawn), *predictions.shape[1:]).mean(1))
    mean = np.asarray(np.concatenate(list(_predict(model, features, drawn))).mean(0))
    return effects, mean, len(drawn) * (samples * len(features) + 1)


def _predict(
    model: Callable[[Any], Any], features: Mapping[str, Any], rows: Int64[np.ndarray, "r m"]
) -> Iterator[Float64[np.ndarray, "b ..."]]:
    """Predictions for combinations of samples, one column of ``rows`` per modality, some thousand at a time."""
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        output = model(
            {
                name: value[torch.from_numpy(column) if isinstance(value, torch.Tensor) else column]
                for (name, value), column in zip(features.items(), part.T.copy(), strict=True)
            }
        )
        array = output.detach().cpu().numpy() if isinstance(output, torch.Tensor) else np.asarray(output)
        if array.ndim == 0 or len(array) != len(part):
            raise DataError("predictions have a wrong shape", expected=f"({len(part)}, ...), one per sample", got=array.shape)
        numbers = array.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise DataError("predictions are not finite", where="emap", expected="finite numbers", got="NaN or infinity")
        yield numbers


def _samples(features: Mapping[str, Any]) -> int:
    lengths = {name: len(value) for name, value in features.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise DataError("modalities need the same number of samples", expected="one number above 0", got=lengths)
    return next(iter(lengths.values()))
