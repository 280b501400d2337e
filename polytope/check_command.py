"""``polytope check``: a certificate against a model, in exact arithmetic."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TypeVar

from polytope.certificate_file import Rejected, read
from polytope.checker import check
from polytope.options import EXIT_CODES, FAILED, OK
from polytope.report import say

EXAMPLES = """\
example:
  polytope check proof.cert model.onnx

In Python a certificate comes from a result: pt.minimal_perturbation(...).certificate().save(...)
"""

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_check(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "check",
        help="check a proof of robustness, independently of the engine that found it",
        description="Check a certificate against a model in exact integer arithmetic. Shares no "
        "code with the engines. Exits with 0 if the claim is proved, with 1 if a step fails.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("certificate", metavar="CERTIFICATE", help="a file that a result has saved")
    own.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or an .npz file written by Network.save"
    )
    own.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    """Run the command."""
    verdict = check(arguments.certificate, arguments.model)
    if not verdict.valid:
        say(f"REJECTED: {verdict.reason}", sys.stdout)
        return FAILED
    try:
        header = read(arguments.certificate).header
    except Rejected as error:
        say(f"REJECTED: {error}", sys.stdout)
        return FAILED
    target = header.get("target")
    rival = "another class" if target is None else f"class {target}"
    say(
        f"PROVED, in exact arithmetic ({verdict.leaves} leaves in {verdict.seconds:.2f} s): "
        f"class {header['label']} is not left for {rival}",
        sys.stdout,
    )
    if math.isinf(verdict.lower):
        say("  nowhere in the box", sys.stdout)
        return OK
    say(f"  nearer than {verdict.lower!r} (l_{header['norm']})", sys.stdout)
    if math.isfinite(verdict.upper):
        width = verdict.upper - verdict.lower
        say(
            f"  but it is at {verdict.upper!r}, where the witness is: the interval is {width:.1e} "
            "wide",
            sys.stdout,
        )
    return OK
