"""``polytope train CONFIG``: a network trained as a TOML file says."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from polytope.errors import FileProblem, InputError, Notice
from polytope.examples import Examples
from polytope.model import compile
from polytope.options import EXIT_CODES, INTERRUPTED, OK
from polytope.report import progress_bar, say
from polytope.tables import check_writable, write_file, write_table
from polytope.train_config import LOSSES, read_config
from polytope.training.evaluation import evaluate
from polytope.training.networks import ACTIVATIONS, WIDTHS
from polytope.training.trainer import train

EXAMPLES = f"""\
a configuration:
  [data]
  name = "digits"          # digits comes with polytope; mnist, fashion_mnist, gtsrb, cifar10 and
                           # japanese_vowels are read from --data or $POLYTOPE_DATA; or your own
                           # files: train = "a.npz", test = "b.npz", scale = 255
  validation = 300         # examples set aside (default: 0)

  [network]
  kind = "fully_connected" # with widths; convolutional (channels, widths); cnn; scornn (units);
                           # or {", ".join(WIDTHS)}
  widths = [64, 32]
  activation = "relu"      # {", ".join(ACTIVATIONS)}; slope = 0.01
  start = "he"             # or torch; normalise = [mean, deviation]; precision = "float64"

  [training]
  epochs = 20
  batch = 64
  optimizer = "adam"       # amsgrad, sgd, nesterov; momentum, weight_decay
  rate = 1e-3
  drop = 10                # the last epochs at a tenth of the rate
  choose = "error"         # or loss: the best epoch on the validation examples; last
  seed = 0

  [[loss]]                 # as many as you like, of the kinds below
  kind = "ROLL"
  weight = 0.1             # or a ramp: {{start = 0, end = 0.1, epochs = 10}}
  axes = 3                 # any setting of the loss, see its documentation

kinds of losses: {", ".join(LOSSES)}

Writes NAME.npz (the compiled network, for the other commands; of a recurrent network there is
none), NAME.pt (weights, for torch.load(..., weights_only=True)), NAME-history.csv and
NAME.checkpoint, where NAME is that of the configuration. Stopped or killed, the same command goes
on from the checkpoint, and gives the same numbers as if it had run through.

{EXIT_CODES}"""

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "train",
        help="train a network, with losses that enlarge its linear regions",
        description="Train a network as a configuration in TOML says, and write it down.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("config", metavar="CONFIG", type=Path, help="a .toml file, as below")
    own.add_argument(
        "--data", metavar="DIR", help="folder of the data sets (default: $POLYTOPE_DATA)"
    )
    own.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("."),
        help="folder of what is written (default: this one; made if missing)",
    )  # fmt: skip
    own.add_argument(
        "--device", metavar="NAME", default="cpu", help="where to train: cpu (default) or cuda"
    )
    own.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    """Run the command."""
    config = read_config(arguments.config)
    device = _device(arguments.device)
    folder: Path = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(
            f"cannot make the folder '{folder}': {error.strerror or error}; give another --out"
        ) from error
    name = arguments.config.stem
    graph, weights, history, checkpoint = (
        check_writable(folder / f"{name}{end}")
        for end in (".npz", ".pt", "-history.csv", ".checkpoint")
    )
    data, validation = config.data.read(config.folder, arguments.data)
    model = config.network.build(data, config.training.seed).to(device)
    with _quiet():
        losses = [loss.build(model, data, config.training.epochs) for loss in config.losses]
        with progress_bar(f"training {name}") as bar:
            done = train(
                model, data.train, config.training, losses=losses, validation=validation,
                checkpoint=checkpoint, progress=bar,
            )  # fmt: skip
    write_table(done.to_frame(), history)
    if not done.finished:
        say(
            f"polytope: stopped by Ctrl-C in epoch {done.epoch + 1} of {config.training.epochs}; "
            f"the same command goes on from '{checkpoint}'"
        )
        return INTERRUPTED
    state = {key: tensor.cpu() for key, tensor in model.state_dict().items()}
    write_file(weights, lambda path: torch.save(state, path))
    written = [weights, history]
    if data.train.lengths is None:
        with _quiet():
            compile(model, data.shape).save(graph)
        written.insert(0, graph)
    _show(model, {"training": data.train, "validation": validation, "test": data.test})
    say(f"weights of epoch {done.epoch} of {config.training.epochs}, {done.seconds:.1f} s",
        sys.stdout)  # fmt: skip
    for path in written:
        say(f"wrote   {path}", sys.stdout)
    return OK


def _device(name: str) -> torch.device:
    """The device of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: {name!r} cannot be used here; expected cpu or cuda") from error
    return device


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Notices go to stderr, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        yield
    for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, Notice)):
        say(f"polytope: note: {text}")


def _show(model: nn.Module, parts: dict[str, Examples | None]) -> None:
    """Errors and cross-entropies, a line for each part of the data."""
    for name, examples in parts.items():
        if examples is not None:
            found = evaluate(model, examples)
            say(
                f"{name:<10} error {100 * found.error:6.2f} %, cross-entropy {found.loss:.4f} "
                f"({len(examples)} examples)",
                sys.stdout,
            )
