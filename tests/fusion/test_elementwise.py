"""Concatenation: scaled columns side by side, by hand."""

import torch

from lego_fusion.fusion.elementwise import Concat

LABELS, VIDEOS = torch.tensor([False, True]), torch.arange(2)


def features(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"motion": torch.randn(2, 4, 3, generator=generator), "text": torch.randn(2, 4, 2, generator=generator)}


def test_concat_by_hand():
    fusion, train, test = Concat({"text": 2, "motion": 3}), features(), features(1)
    fusion.fit_statistics(train, LABELS, VIDEOS)
    nodes = fusion(test).nodes
    assert nodes.shape == (2, 4, 5)
    for column, (name, d) in enumerate([("text", 0), ("text", 1), ("motion", 0), ("motion", 1), ("motion", 2)]):
        known = train[name][..., d].flatten().tolist()
        mean = sum(known) / len(known)
        deviation = (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5
        expected = [[(value - mean) / deviation for value in row] for row in test[name][..., d].tolist()]
        torch.testing.assert_close(nodes[..., column], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_unit_of_a_modality_does_not_matter():
    plain, rescaled = Concat({"motion": 3, "text": 2}), Concat({"motion": 3, "text": 2})
    plain.fit_statistics(features(), LABELS, VIDEOS)
    train, test = ({**given, "motion": 1000 * given["motion"] + 7} for given in (features(), features(1)))
    rescaled.fit_statistics(train, LABELS, VIDEOS)
    torch.testing.assert_close(rescaled(test).nodes, plain(features(1)).nodes, rtol=1e-3, atol=1e-4)


def test_before_fitting_features_pass_unchanged():
    given = features()
    nodes = Concat({"motion": 3, "text": 2})(given).nodes
    assert torch.equal(nodes, torch.cat([given["motion"], given["text"]], dim=-1))
