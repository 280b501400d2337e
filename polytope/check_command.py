"""``polytope check``: a certificate against a model."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TypeVar

from polytope.certificate_file import plain
from polytope.checker import MODES, check
from polytope.options import EXIT_CODES, FAILED, OK
from polytope.report import say

EXAMPLES = """\
example:
  polytope check proof.cert model.onnx
  polytope check proof.cert model.onnx --property prop_1.vnnlib --mode interval

In Python a certificate comes from a result: pt.minimal_perturbation(...).certificate().save(...),
or pt.verify(...).certificate().save(...); polytope verify writes one with --certificate.
"""

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_check(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "check",
        help="check a proof of robustness or of a property, independently of what found it",
        description="Check a certificate against a model, in exact arithmetic or in floats with "
        "bounds on their rounding. Shares no code with the engines. Exits with 0 if the claim is "
        "proved, with 1 if a step fails.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("certificate", metavar="CERTIFICATE", help="a file that a result has saved")
    own.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or an .npz file written by Network.save"
    )
    own.add_argument(
        "--mode", choices=MODES, default="rational",
        help="arithmetic: rational (exact, the default), or interval (floats with bounds on their "
        "rounding; many times faster)",
    )  # fmt: skip
    own.add_argument(
        "--property", metavar="SPEC",
        help="a .vnnlib file: check also that the claim says what this property asks for",
    )  # fmt: skip
    own.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    """Run the command."""
    verdict = check(arguments.certificate, arguments.model, arguments.mode, arguments.property)
    if not verdict.valid:
        say(f"REJECTED: {verdict.reason}", sys.stdout)
        return FAILED
    header = verdict.header
    how = {"rational": "in exact arithmetic", "interval": "in floats with bounds on their rounding"}
    done = f"PROVED, {how[verdict.mode]} ({verdict.leaves} leaves in {verdict.seconds:.2f} s): "
    if verdict.claim == "safe":
        source = arguments.property or plain(header.get("source"))
        said = "" if arguments.property else " (as it was read; compare it with --property)"
        say(f"{done}no input is unsafe by {source}{said}", sys.stdout)
        return OK
    target = header.get("target")
    rival = "another class" if target is None else f"class {target}"
    say(f"{done}class {header['label']} is not left for {rival}", sys.stdout)
    if math.isinf(verdict.lower):
        say("  nowhere in the box", sys.stdout)
        return OK
    nearer = f"nearer than {verdict.lower!r}" if verdict.lower > 0 else "nearer than 0: no claim"
    say(f"  {nearer} (l_{header['norm']})", sys.stdout)
    if math.isfinite(verdict.upper):
        width = verdict.upper - verdict.lower
        say(
            f"  but it is at {verdict.upper!r}, where the witness is: the interval is {width:.1e} "
            "wide",
            sys.stdout,
        )
    return OK
