"""`train`: a small training loop that can be stopped, killed and taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

from polytope.errors import Diverged, InputError
from polytope.examples import Examples
from polytope.training.checkpoint import State, load_state, save_state
from polytope.training.interrupt import Interrupt
from polytope.training.loop import Loss, Run
from polytope.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained module.

    Attributes
    ----------
    model : torch.nn.Module
        The module given, with the chosen weights, in evaluation mode.
    history : mapping of str to list of float
        A number for each epoch: ``epoch``, ``rate``, the mean of each loss (``cross_entropy``
        and the classes' names), ``validation_error`` and ``validation_loss`` if there are
        examples for it, ``seconds`` since the start.
    epoch : int
        The epoch whose weights were chosen; 0 if none was finished.
    seconds : float
        Time spent, earlier runs of the checkpoint included.
    finished : bool
        False if Ctrl-C came first: the module then has the weights of the last step, and
        calling `train` again with the same checkpoint goes on from there.
    """

    model: nn.Module = field(repr=False)
    history: Mapping[str, list[float]] = field(repr=False)
    epoch: int
    seconds: float
    finished: bool

    def to_frame(self) -> pd.DataFrame:
        """The history as a table, a row for each epoch."""
        return pd.DataFrame(dict(self.history)).astype({"epoch": int})


def train(
    model: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    losses: Sequence[Loss] = (),
    validation: Examples | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a module by cross-entropy and regularisers.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place; trained in its own dtype on its own device. Gives logits (n, classes).
    examples : Examples
    recipe : Recipe
        Epochs, batch, optimiser, rates, the choice of an epoch, the seed.
    losses : sequence of Loss
        Called as ``loss(x, y, epoch=epoch)`` and added.
    validation : Examples, optional
        Measured after each epoch; needed to choose one.
    checkpoint : path, optional
        Where the state is kept. If the file is there, the training goes on from it bit for bit,
        or is returned at once if it had ended; the weights that `model` comes with do not
        count then.
    save_every : float
        Seconds between checkpoints; 0 saves after each step. The end and Ctrl-C save as well.
    progress : callable, optional
        Called as ``progress(steps_done, steps)``.

    Returns
    -------
    Trained
        Ctrl-C ends the step at work, saves, and returns what there is; a second Ctrl-C does not
        wait for the step, and goes back to the last state that was kept.

    Raises
    ------
    Diverged
        At NaN or infinity, saying in which epoch, batch, loss and parameter. The module then
        has the last good weights, and the checkpoint its last good state.
    FileProblem
        If the checkpoint is damaged, of another training, or cannot be written.
    InputError
        If module, examples and recipe do not fit together.

    Notes
    -----
    Each step draws from a seed made of the recipe's, the epoch and the step, so equal seeds give
    equal numbers, however often the training was interrupted (with equally many threads; on a
    GPU as far as its kernels repeat theirs). torch's own random state is left as it was.
    """
    if not len(examples):
        raise InputError("train: got no examples, expected at least one")
    if recipe.choose != "last" and not (validation is not None and len(validation)):
        raise InputError(
            f"train: choose={recipe.choose!r} takes the best epoch on validation examples; give "
            "validation=, or choose='last'"
        )
    run = Run(model, examples, recipe, list(losses), validation)
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with Interrupt() as interrupt, torch.random.fork_rng(sorted(devices)):
        made_by = None if checkpoint is None else run.made_by()

        def save(state: State) -> None:
            if checkpoint is not None and made_by is not None:
                save_state(checkpoint, state, made_by)

        found = None if checkpoint is None or made_by is None else load_state(checkpoint, made_by)
        if found is not None:
            run.restore(found)
        if progress is not None:
            progress(run.done, run.total)
        kept, saved = run.state(), time.perf_counter()
        try:
            while not (run.ended or interrupt.asked):
                run.step()
                due = time.perf_counter() - saved >= save_every
                if due or run.at == 0:
                    kept = run.state()
                if due:
                    save(kept)
                    saved = time.perf_counter()
                if progress is not None:
                    progress(run.done, run.total)
        except KeyboardInterrupt:
            run.restore(kept)
        except Diverged as error:
            run.restore(kept)
            save(kept)
            model.eval()
            place = "" if checkpoint is None else f" and '{checkpoint}'"
            raise Diverged(
                f"training stopped in {error}. The module{place} kept the state after step "
                f"{kept.step} of epoch {kept.epoch}"
            ) from error
        if found is None or (found.epoch, found.step) != (run.epoch, run.at):
            save(run.state())
    return Trained(model, run.history, run.finish(), run.seconds, run.ended)
