"""Many properties one after another: the benchmark folders of the competition."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from polytope.checker import MODES, check
from polytope.errors import FileProblem, PolytopeError
from polytope.model import Network
from polytope.options import FAILED, INTERRUPTED, OK, read_model
from polytope.report import say
from polytope.tables import write_table
from polytope.verification.result import Verification
from polytope.verification.verify import verify

COLUMNS = (
    "onnx", "vnnlib", "timeout", "expected", "verdict", "seconds", "replayed", "boxes", "proof",
    "proof_kb", "proof_seconds", "explain",
)  # fmt: skip
DECIDED = ("sat", "unsat")


def run_instances(
    table: Path,
    folder: Path,
    timeout: float,
    out: Path | None,
    workers: int | None,
    seed: int,
    shape: tuple[int, ...] | None,
    mode: str | None,
) -> int:
    """Decide all instances of a table, print a line for each, and a summary.

    Parameters
    ----------
    table : Path
        A .csv file with the columns onnx, vnnlib and at will consensus; or without column names:
        onnx, vnnlib, and anything after them.
    folder : Path
        What the table's files are relative to.
    timeout : float
        Seconds for each instance, reading the model included.
    out : Path or None
        The table of results; instances that it has with this timeout are not run again.
    workers, seed, shape
        As `verify` and `compile` take them.
    mode : str or None
        How the proofs of unsat verdicts are checked, if they are.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    FileProblem
        If a table cannot be read or written.
    """
    instances = read_instances(table)
    done = _done(out, timeout)
    stopped = False
    for onnx, vnnlib, expected in instances:
        if (onnx, vnnlib) in done:
            continue
        try:
            row = _run(folder, onnx, vnnlib, expected, timeout, workers, seed, shape, mode)
        except KeyboardInterrupt:
            stopped = True
            break
        done[onnx, vnnlib] = row
        _show(row)
        if out is not None:
            _write(instances, done, out)
    rows = [done[key[:2]] for key in instances if key[:2] in done]
    for line in summary(rows, len(instances)):
        say(line, sys.stdout)
    if out is not None:
        say(f"table   {out}", sys.stdout)
    if stopped:
        say(f"polytope: stopped by Ctrl-C after {len(rows)} of {len(instances)} instances")
        return INTERRUPTED
    refused = any(str(row["proof"]).startswith("rejected") for row in rows)
    return FAILED if refused or any(_wrong(row) for row in rows) else OK


def read_instances(table: Path) -> list[tuple[str, str, str]]:
    """The model, the property and the expected verdict ("" if none) of each instance.

    Raises
    ------
    FileProblem
        If the table is missing, or has no such columns.
    """
    frame = _read(table, header=0)
    if "onnx" not in frame.columns or "vnnlib" not in frame.columns:
        frame = _read(table, header=None)
        if frame.shape[1] < 2 or not frame[0].str.endswith((".onnx", ".npz")).all():
            raise FileProblem(
                f"{table}: expected columns onnx and vnnlib, or lines 'MODEL.onnx,SPEC.vnnlib,...'"
            )
        frame = frame.rename(columns={0: "onnx", 1: "vnnlib"})
    expected = frame["consensus"] if "consensus" in frame.columns else [""] * len(frame)
    return list(zip(frame["onnx"], frame["vnnlib"], expected, strict=True))


def _read(table: Path, header: int | None) -> pd.DataFrame:
    """A table of words."""
    try:
        return pd.read_csv(table, header=header, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise FileProblem(f"{table}: no such file") from error
    except (OSError, ValueError) as error:
        raise FileProblem(f"{table}: cannot be read as a table: {error}") from error


def _done(out: Path | None, timeout: float) -> dict[tuple[str, str], dict[str, object]]:
    """The rows of an earlier run with the same time limit."""
    if out is None or not out.exists():
        return {}
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet,
    }  # fmt: skip
    try:
        frame = readers[out.suffix.lower()](out)
    except (OSError, ValueError) as error:
        raise FileProblem(f"{out}: is no table of an earlier run: {error}") from error
    if list(frame.columns) != list(COLUMNS):
        raise FileProblem(f"{out}: is no table of an earlier run; give another --out")
    frame = frame.astype(object).where(frame.notna(), "")
    rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    return {(str(r["onnx"]), str(r["vnnlib"])): r for r in rows if r["timeout"] == timeout}


def _write(
    instances: Sequence[tuple[str, str, str]], done: dict[tuple[str, str], dict[str, object]],
    out: Path,
) -> None:  # fmt: skip
    """Write all rows there are, in the order of the instances."""
    rows = [done[key[:2]] for key in instances if key[:2] in done]
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), out)


def _run(
    folder: Path, onnx: str, vnnlib: str, expected: str, timeout: float, workers: int | None,
    seed: int, shape: tuple[int, ...] | None, mode: str | None,
) -> dict[str, object]:  # fmt: skip
    """One instance; a model or property that cannot be used is a row with the reason.

    Raises
    ------
    KeyboardInterrupt
        Also where the verification itself ended by one.
    """
    begun = time.perf_counter()
    verdict, explain, replayed, boxes = "error", "", "", 0
    proof: tuple[object, ...] = ("", "", "")
    try:
        net = read_model(str(folder / onnx), shape)
        left = max(timeout - (time.perf_counter() - begun), 0.01)
        found = verify(net, folder / vnnlib, left, seed, workers)
        if found.stats.stopped == "interrupt":
            raise KeyboardInterrupt
        verdict, explain, boxes = found.verdict, found.explain, found.stats.boxes
        replayed = "" if found.replayed is None else "yes" if found.replayed else "no"
    except PolytopeError as error:
        explain = " ".join(str(error).split())
    seconds = round(time.perf_counter() - begun, 3)
    if mode is not None and verdict == "unsat":
        proof = _checked(found, net, folder / vnnlib, mode)
    values = (
        onnx, vnnlib, timeout, expected, verdict, seconds, replayed, boxes, *proof, explain
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _checked(found: Verification, net: Network, vnnlib: Path, mode: str) -> tuple[object, ...]:
    """Whether a proof is accepted, its size in kB, and the time of the check."""
    if found.proof is None:
        return "none", "", ""
    verdict = check(found.proof, net, mode, vnnlib)
    size = len(found.proof.to_bytes()) / 1000
    accepted = mode if verdict.valid else f"rejected: {verdict.reason}"
    return accepted, round(size, 1), round(verdict.seconds, 2)


def _wrong(row: dict[str, object]) -> bool:
    """Whether a verdict differs from the expected one; an open one does not."""
    decided = row["verdict"] in DECIDED and row["expected"] in DECIDED
    return decided and row["verdict"] != row["expected"]


def _show(row: dict[str, object]) -> None:
    """A line for an instance."""
    expected = f"expected {row['expected']}" if row["expected"] else ""
    mark = "  WRONG" if _wrong(row) else ""
    proof = f"  proof {row['proof']}, {row['proof_seconds']} s" if row["proof"] else ""
    say(
        f"{row['verdict']:<8}{row['seconds']:>8.2f} s  {expected:<15}  {row['onnx']}  "
        f"{row['vnnlib']}{mark}{proof}",
        sys.stdout,
    )
    if row["verdict"] not in DECIDED:
        say(f"        {row['explain']}", sys.stdout)
    sys.stdout.flush()


def summary(rows: Sequence[dict[str, object]], total: int) -> list[str]:
    """How many were decided, how many wrongly, and in what time."""
    if not rows:
        return [f"none of {total} instances was finished"]
    count = Counter(str(row["verdict"]) for row in rows)
    seconds = [float(str(row["seconds"])) for row in rows]
    named = [f"{count[name]} {name}" for name in (*DECIDED, "timeout", "unknown", "error")
             if count[name]]  # fmt: skip
    compared = [row for row in rows if row["expected"] in DECIDED and row["verdict"] in DECIDED]
    wrong = sum(_wrong(row) for row in compared)
    witnessed = [row for row in rows if row["verdict"] == "sat" and row["replayed"] != ""]
    agree = sum(row["replayed"] == "yes" for row in witnessed)
    lines = [
        f"{len(rows)} of {total} instances: {', '.join(named)}",
        f"{wrong} of {len(compared)} verdicts differ from the expected ones; "
        f"{agree} of {len(witnessed)} counterexamples replayed in the model's own dtype",
        f"{sum(seconds):.1f} s in all, median {sorted(seconds)[len(seconds) // 2]:.2f} s, "
        f"longest {max(seconds):.2f} s",
    ]
    proofs = [row for row in rows if row["proof"] != ""]
    if proofs:
        accepted = [row for row in proofs if row["proof"] in MODES]
        spent = [float(str(row["proof_seconds"] or 0)) for row in proofs]
        sizes = sorted(float(str(row["proof_kb"] or 0)) for row in proofs)
        lines.append(
            f"{len(accepted)} of {len(proofs)} proofs of unsat verdicts accepted by the checker; "
            f"{sum(spent):.1f} s in all, longest {max(spent):.1f} s; "
            f"median size {sizes[len(sizes) // 2]:.1f} kB, largest {sizes[-1]:.1f} kB"
        )
    open_ = [row for row in rows if row["verdict"] not in DECIDED]
    return lines + [f"open: {row['onnx']} {row['vnnlib']} ({row['verdict']})" for row in open_]
