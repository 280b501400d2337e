"""Losses that enlarge linear regions, for any PyTorch training loop.

>>> loss = pt.training.MMR(model, (784,), 0.4, 0.4, p=2)  # doctest: +SKIP
>>> (cross_entropy(model(x), y) + loss(x, y, epoch=epoch)).backward()  # doctest: +SKIP
"""

from polytope.training.mmr import MMR
from polytope.training.regulariser import Regulariser
from polytope.training.roll import ROLL, RegionMargin
from polytope.training.schedules import Ramp

__all__ = ["MMR", "ROLL", "Ramp", "RegionMargin", "Regulariser"]
