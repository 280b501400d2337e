"""``polytope verify``: properties in VNN-LIB, one or a folder of them, from the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TypeVar

import numpy as np

from polytope.checker import MODES
from polytope.errors import InputError
from polytope.options import (
    INTERRUPTED,
    OK,
    read_count,
    read_model,
    read_positive,
    read_shape,
)
from polytope.report import say
from polytope.tables import check_table_path, check_writable, write_file
from polytope.verification.result import Verification
from polytope.verification.verify import verify
from polytope.verify_instances import run_instances

SAT, OPEN = 10, 20
EXAMPLES = """\
examples:
  polytope verify model.onnx property.vnnlib --timeout 60
  polytope verify model.onnx property.vnnlib --out result.txt --counterexample
  polytope verify model.onnx property.vnnlib --certificate proof.cert
  polytope verify --instances expected.csv --folder acasxu --timeout 60 --out table.csv

Verdicts: "unsat" (proved: no input of the box has unsafe outputs), "sat" (an unsafe input was
found, confirmed in exact arithmetic, and replayed by the source model in its own dtype),
"timeout", "unknown". With --out the file has the competition's format: the verdict, and for sat
the counterexample.

--instances runs a table of instances: a .csv file with the columns onnx and vnnlib, relative to
--folder, and at will consensus (the expected verdict); or the competition's instances.csv, without
column names. Rows that --out has already are kept, so that a run can be stopped and resumed.

exit codes:
  0    unsat; with --out: any verdict (it stands in the file); with --instances: no verdict differs
       from the expected one
  10   sat
  20   timeout or unknown
  1    with --instances: some verdict differs from the expected one
  2    a mistake in the command, or an unusable model, property or output file
  130  stopped by Ctrl-C
"""

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_verify(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "verify",
        help="decide a property in VNN-LIB: proved, or refuted by a counterexample",
        description="Decide whether some input of a box has unsafe outputs, as a VNN-LIB file "
        "says what is unsafe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument(
        "model", metavar="MODEL", nargs="?",
        help="an .onnx file, or an .npz file written by Network.save",
    )  # fmt: skip
    own.add_argument(
        "spec", metavar="SPEC", nargs="?",
        help="a .vnnlib or .vnnlib.gz file (version 1.0; 2.0 with pip install vnnlib)",
    )  # fmt: skip
    own.add_argument(
        "--timeout", metavar="SECONDS", type=read_positive, default=60.0,
        help="time limit of each property (default: 60)",
    )  # fmt: skip
    own.add_argument(
        "--out", metavar="FILE", type=Path,
        help="write the result in the competition's format; with --instances the table "
        "(.csv, .json or .parquet)",
    )  # fmt: skip
    own.add_argument(
        "--counterexample", action="store_true", help="print the counterexample of a sat verdict"
    )
    own.add_argument(
        "--certificate", metavar="FILE", type=Path,
        help="write the proof of an unsat verdict, for polytope check",
    )  # fmt: skip
    own.add_argument(
        "--check", metavar="MODE", choices=MODES,
        help="with --instances: check the proof of each unsat verdict too, rational or interval; "
        "its time is not counted",
    )  # fmt: skip
    own.add_argument(
        "--instances", metavar="FILE", type=Path, help="decide all instances of a table"
    )
    own.add_argument(
        "--folder", metavar="DIR", type=Path,
        help="where the files of the instances are (default: the folder of their table)",
    )  # fmt: skip
    own.add_argument(
        "--input-shape", metavar="N,N,...", type=read_shape,
        help="shape of one input, such as 1,28,28, if the model leaves it open",
    )  # fmt: skip
    own.add_argument(
        "--workers", metavar="N", type=read_count, help="threads (default: one for each core)"
    )
    own.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of all that is random (default: 0)"
    )
    own.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.instances is not None:
        alone = arguments.counterexample or arguments.certificate is not None
        if arguments.model is not None or alone:
            raise InputError(
                "--instances: takes models and properties from the table; leave out MODEL, SPEC, "
                "--counterexample and --certificate"
            )
        target = None if arguments.out is None else check_table_path(arguments.out)
        folder = arguments.instances.parent if arguments.folder is None else arguments.folder
        return run_instances(
            arguments.instances, folder, arguments.timeout, target, arguments.workers,
            arguments.seed, arguments.input_shape, arguments.check,
        )  # fmt: skip
    if arguments.check is not None:
        raise InputError("--check: belongs to --instances; for one property use polytope check")
    if arguments.spec is None:
        raise InputError(
            "verify: expected MODEL and SPEC, or --instances; see polytope verify --help"
        )
    target = None if arguments.out is None else check_writable(arguments.out)
    proof = None if arguments.certificate is None else check_writable(arguments.certificate)
    begun = time.perf_counter()
    net = read_model(arguments.model, arguments.input_shape)
    left = max(arguments.timeout - (time.perf_counter() - begun), 0.01)
    found = verify(net, arguments.spec, left, arguments.seed, arguments.workers)
    say(f"{found.verdict}: {found.explain} ({time.perf_counter() - begun:.2f} s)", sys.stdout)
    text = result_text(found)
    if arguments.counterexample and found.verdict == "sat":
        say(text.partition("\n")[2].rstrip("\n"), sys.stdout)
    if target is not None:
        write_file(target, lambda path: path.write_text(text))
        say(f"result  {target}", sys.stdout)
    if proof is not None and found.proof is not None:
        found.proof.save(proof)
        say(f"proof   {proof}", sys.stdout)
    elif proof is not None and found.verdict == "unsat":
        say("polytope: note: the bounds of the whole box decided, of which there is no certificate")
    if found.stats.stopped == "interrupt":
        return INTERRUPTED
    if target is not None:
        return OK
    return {"unsat": OK, "sat": SAT}.get(found.verdict, OPEN)


def result_text(found: Verification) -> str:
    """A result in the competition's format: the verdict, and for sat the counterexample.

    The counterexample is the point in the source model's dtype with what the source model says
    there, as the competition replays it; without a source model the exact one.
    """
    if found.witness is None:
        return f"{found.verdict}\n"
    replayed = found.native_outputs is not None
    x = found.native_point if replayed else found.witness
    y = found.native_outputs if replayed else found.outputs
    lines = [f"({name}_{i} {value!r})" for name, values in (("X", x), ("Y", y))
             for i, value in enumerate(np.asarray(values).tolist())]  # fmt: skip
    return "\n".join([found.verdict, f"({lines[0]}", *lines[1:]]) + ")\n"
