"""lego-fusion: fuse feature sets by their relations, find what is abnormal in video, and show why.

Axis letters of every shape in this package: b batch (a bag, one video or one crop of it), m modality, n node, d feature,
p and q order of a power, c crop, t snippet, k class, reference unit or top-k, f number handed on per node.

The public names below are imported when they are first used; ``import lego_fusion`` itself loads neither torch nor numpy.

Example:
    >>> import lego_fusion
    >>> lego_fusion.PaperFusion({"motion": 8, "text": 4}, nodes=32).out_features
    32
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
