"""Losses for robust and locally linear networks, for any PyTorch training loop.

Every loss is made for a module, ``loss = LOSS(model, input_shape, ...)``, and called as
``loss(x, y, epoch=epoch)`` with epochs counted from 1; it returns a scalar whose gradient reaches
the module's parameters.  The class attribute ``replaces_task`` says what it is:

- False: a regulariser, to be added to the cross entropy (`ROLL`, `RegionMargin`, `MMR`, `LLR`,
  `CURE`, `CrossLipschitz`);
- True: the loss of a whole step, taken instead of the cross entropy (`Adversarial`, `TRADES`,
  `WongKolter`).

`ROLL`, `RegionMargin`, `MMR` and `WongKolter` need piecewise-linear modules; the others take any,
smooth ones too.

``total_loss(model, losses, x, y, epoch=epoch)`` puts one step together: the loss that replaces
the cross entropy if there is one among them, the cross entropy otherwise, and all regularisers.

>>> losses = [pt.training.MMR(model, (784,), 0.4, 0.4, p=2)]  # doctest: +SKIP
>>> pt.training.total_loss(model, losses, x, y, epoch=epoch).backward()  # doctest: +SKIP

For those without a loop of their own, `train` takes `Examples` and a `Recipe`:

>>> data = pt.load_dataset("digits")  # doctest: +SKIP
>>> done = pt.training.train(model, data.train, Recipe(epochs=20), losses=losses)  # doctest: +SKIP

`ScoRNN` is a recurrent network for series; `EachLength` makes a loss for each of their lengths.
"""

from polytope.training.adversarial import TRADES, Adversarial
from polytope.training.curvature import CURE, CrossLipschitz
from polytope.training.evaluation import Evaluation, evaluate
from polytope.training.llr import LLR
from polytope.training.loss import TrainingLoss, total_loss
from polytope.training.mmr import MMR
from polytope.training.recipe import Recipe
from polytope.training.recurrent import EachLength, ScoRNN
from polytope.training.regulariser import Regulariser
from polytope.training.roll import ROLL, RegionMargin
from polytope.training.schedules import Ramp
from polytope.training.trainer import Trained, train
from polytope.training.wong_kolter import WongKolter

__all__ = [
    "CURE", "LLR", "MMR", "ROLL", "TRADES", "Adversarial", "CrossLipschitz", "EachLength",
    "Evaluation", "Ramp", "Recipe", "RegionMargin", "Regulariser", "ScoRNN", "Trained",
    "TrainingLoss", "WongKolter", "evaluate", "total_loss", "train",
]  # fmt: skip
