"""Whether an explanation names what was planted: the modality, the order, the nodes, and how the modalities work together."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from lego_fusion.errors import DataError
from lego_fusion.explain.terms import NodeExplanation, Terms, variance_shares


def modality_shares(explained: NodeExplanation) -> dict[str, float]:
    """Share of each modality in how the logits differ from node to node: cov(its part, sum of parts) / var(sum of parts).

    An interaction counts equally for each of its modalities. The shares add up to 1.
    """
    nodes = explained.nodes()
    shares = variance_shares(nodes)
    found = dict.fromkeys(nodes.names, 0.0)
    for exponents, support in zip(nodes.exponents, nodes.supports, strict=True):
        for name in support:
            found[name] += shares[exponents] / len(support)
    return found


def order_shares(explained: NodeExplanation) -> dict[int, float]:
    """The same by total order of the terms; the largest says which order tells the nodes apart."""
    nodes = explained.nodes()
    found: dict[int, float] = {}
    for exponents, share in variance_shares(nodes).items():
        found[sum(exponents)] = found.get(sum(exponents), 0.0) + share
    return found


def share_error(found: Mapping[str, float], planted: Mapping[str, float]) -> float:
    """Largest difference between found and planted share of a modality.

    Raises:
        DataError: If they are of other modalities.

    Example:
        >>> round(share_error({"a": 0.9, "b": 0.1}, {"a": 1.0, "b": 0.0}), 9)
        0.1
    """
    if set(found) != set(planted):
        raise DataError("shares of other modalities were planted", expected=", ".join(planted), got=", ".join(found))
    return max(abs(found[name] - planted[name]) for name in planted)


def node_auc(importance: Float[Tensor, "b n"], planted: Bool[Tensor, "b n"]) -> float:
    """AUC of importances for planted nodes, all bags pooled.

    Raises:
        DataError: If all nodes or none are planted.
    """
    if bool(planted.all()) or not bool(planted.any()):
        raise DataError("an AUC needs planted and other nodes", got=f"{int(planted.sum())} of {planted.numel()} planted")
    return float(roc_auc_score(planted.flatten().numpy(), importance.detach().flatten().numpy()))


def logits_within(
    terms: Terms, baseline: Terms, first: nn.Linear, second: nn.Linear, present: Collection[str]
) -> Float[Tensor, "b n"]:
    """Logits if only the terms whose modalities are all ``present`` differed from typical: the removal called drop-term.

    Every other term has its mean over normal nodes, one number, so that what is left keeps its place in the fused row. With a
    metric of these logits as v(S), cooperation is above zero where the product terms, or the sorting and the head after them,
    need several modalities, and below zero where one would have done.

    Args:
        terms: Of the nodes, values (T, B, N, K).
        baseline: Of normal nodes, values (T, ...), for the means.
        first: First layer of a head on sorted rows.
        second: Its second layer.
        present: Names of modalities.
    """
    kept = torch.tensor([set(support) <= set(present) for support in terms.supports])[:, None, None, None]
    means = baseline.values.flatten(1).mean(1)[:, None, None, None].expand_as(terms.values)
    row = torch.where(kept, terms.values, means).sum(0).sort(dim=-1, descending=True).values
    with torch.no_grad():
        logits: Tensor = second(first(row).relu())[..., 0]
    return logits
