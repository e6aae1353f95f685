"""Modality dropout: training on bags of which one modality is now and then gone, as it may be gone at test time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ParameterError, check_choice, check_number
from ..fusion.base import Fusion
from .bags import Bags, training_inputs, without_graphs
from .conditions import REMOVALS, Removal, removed


class ModalityDropout:
    """In each step each video loses one of its modalities with a fixed probability; all its crops lose the same one.

    What is gone is removed as ``conditions.Condition`` says: features are replaced before they are related (``"zero"``,
    ``"mean"``, ``"permute"`` with one random order for the whole training), or the graph is left out (``"drop-term"``). A
    normal training video keeps meeting its own references. Never more than one modality goes, so never all.

    Args:
        fusion: With fitted statistics; it knows the modalities.
        train: The training bags, with features.
        probability: In [0, 1).
        removal: What is left of a modality that is gone.
        seed: Which video loses what in which step is a function of this and the step.

    Raises:
        ParameterError: If there is one modality only, a value is wrong, or ``"drop-term"`` meets a fusion without graphs.
    """

    def __init__(self, fusion: Fusion, train: Bags, probability: float, removal: Removal, *, seed: int) -> None:
        check_number(probability, "probability", "ModalityDropout", low=0.0, high=1.0)
        check_choice(removal, "removal", "ModalityDropout", REMOVALS)
        self.names = tuple(fusion.modalities)
        if probability == 1 or len(self.names) < 2:
            expected = "a probability below 1 and at least two modalities"
            raise ParameterError(
                "modality dropout must leave something", expected=expected, got=f"{probability:g}, {', '.join(self.names)}"
            )
        self.probability, self.seed = probability, seed
        self.gone = self._without_each(fusion, train.with_modalities(self.names), removal)

    def _without_each(self, fusion: Fusion, train: Bags, removal: Removal) -> Bags:
        """The training inputs with every modality as it is when it alone is gone."""
        if removal == "drop-term":
            return without_graphs(fusion, training_inputs(fusion, train), self.names)
        shown = {name: removed(train, train, name, removal, seed=self.seed).inputs[name] for name in self.names}
        return training_inputs(fusion, train, shown=replace(train, inputs=shown))

    def choices(self, videos: int, step: int) -> Tensor:
        """Index of the modality that each video loses in a step, -1 where it loses none, (V,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        lost = torch.rand(videos, generator=generator) < self.probability
        which = torch.randint(len(self.names), (videos,), generator=generator)
        return which.where(lost, torch.tensor(-1))

    def __call__(self, batch: Bags, step: int) -> Bags:
        """The batch of a step without what is lost in it; its tensors stay as they are."""
        choices = self.choices(len(batch.videos), step).repeat_interleave(batch.crops)
        gone = self.gone if batch.videos == self.gone.videos else self.gone.named(batch.videos)
        inputs = {}
        for index, name in enumerate(self.names):
            tensor = batch.inputs[name]
            lost = (choices == index).to(tensor.device)[:, None, None]
            inputs[name] = torch.where(lost, gone.inputs[name].to(tensor), tensor)
        return replace(batch, inputs=inputs)

    def expected(self, bags: Bags) -> list[tuple[float, Bags]]:
        """Bags with the probability that they are met: whole, and without each modality; what a sum of losses is taken over."""
        found = [(1 - self.probability, bags)]
        for name in self.names:
            inputs = {**bags.inputs, name: self.gone.inputs[name].to(bags.inputs[name])}
            found.append((self.probability / len(self.names), replace(bags, inputs=inputs)))
        return found
