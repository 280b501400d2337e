"""Losses for robust and locally linear networks, for any PyTorch training loop.

Every loss is made for a module, ``loss = LOSS(model, input_shape, ...)``, and called as
``loss(x, y, epoch=epoch)`` with epochs counted from 1; it returns a scalar whose gradient reaches
the module's parameters.  The class attribute ``replaces_task`` says what it is:

- False: a regulariser, to be added to the cross entropy (`ROLL`, `RegionMargin`, `MMR`);
- True: the loss of a whole step, taken instead of the cross entropy.

``total_loss(model, losses, x, y, epoch=epoch)`` puts one step together: the loss that replaces
the cross entropy if there is one among them, the cross entropy otherwise, and all regularisers.

>>> losses = [pt.training.MMR(model, (784,), 0.4, 0.4, p=2)]  # doctest: +SKIP
>>> pt.training.total_loss(model, losses, x, y, epoch=epoch).backward()  # doctest: +SKIP
"""

from polytope.training.loss import TrainingLoss, total_loss
from polytope.training.mmr import MMR
from polytope.training.regulariser import Regulariser
from polytope.training.roll import ROLL, RegionMargin
from polytope.training.schedules import Ramp

__all__ = ["MMR", "ROLL", "Ramp", "RegionMargin", "Regulariser", "TrainingLoss", "total_loss"]
