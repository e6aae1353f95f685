"""What the words of a dissection mean, which of the definitions are ours, and why."""

from __future__ import annotations

DEFINITIONS: dict[str, str] = {
    "Unit and concept": """A unit is active where its upsampled map exceeds its own quantile.
        IoU = |M ∧ Y| / |M ∨ Y| (Network Dissection, arXiv 1704.05796).""",
    "Objects": """Ours. Where concepts lie on objects, a unit is read over objects: its mean over each, one number an object.
        Among pixels a unit active on every object alike would hold half of each of two colours and count for both; among
        objects it is at chance. A detector is then a unit whose area under the ROC curve is above 0.8: of an object with the
        concept and one without, it is higher on the first four times out of five. Objects are given, or the connected areas
        of one combination of concepts.""",
    "Ceiling, chance": """Ours. IoU cannot exceed min(q/p, p/q) for a unit active in a share q and a concept covering a share p:
        at q = 0.005 and the usual cut of 0.04 no concept of more than 12.5 % of the pixels could ever be found. So a detector
        is a unit that comes a given share of the way from chance to the ceiling.""",
    "Profile s[m, l, c]": """Ours. Over pixels the mean over the units of a layer of IoU / ceiling; over objects how far the
        best unit is on the way from chance to the ceiling, in which units for concepts that exclude each other do not
        cancel.""",
    "Semantic variance": """Ours. Variances of the profile over modalities, levels and units; its exact split into M, L, C, ML,
        MC, LC and MLC says what is consistent (C), special (MC + MLC) and what evolves (L + LC in common, ML + MLC of its own).
        MLC is in two of them.""",
    "Copies that were never trained": """Ours. The same network with weights drawn as before any training: what these detect
        comes from the inputs and the architecture.""",
    "J and U": "Ours. J: share of the detected concepts that all modalities detect; U: share that one alone detects.",
    "Feature similarity": "Debiased linear CKA (arXiv 1905.00414), with a noise floor from permuted images.",
    "Collaboration": """Ours. Hybrid rule: the fused level keeps at least 75 % of the shared and of the special concepts.
        Alignment: training together raises J by more than 0.05. Division of labour: it lowers J.""",
    "Why ours": """The paper that asks the three questions (arXiv 2308.10019) gives its equations nowhere that we could read
        them; these definitions answer the same questions and have exact cases that are tested.""",
}
