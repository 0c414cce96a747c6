"""The written rules of notebooks/README.md, as far as a machine can check them."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
IGNORE = "nbval-ignore-output"
MAX_LINES, MAX_COLUMNS, MAX_BYTES = 19, 78, 2_000_000
CLAIM_WITHIN = 4  # code cells, the tagged one included
MACHINE_PATH = re.compile(r"(/home/|/root/|/Users/|/tmp/|/work/|[A-Z]:\\\\)\S+")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_tagged(cell):
    return IGNORE in cell.metadata.get("tags", [])


def problems(notebook) -> list[str]:
    """Every broken rule of one notebook, as sentences."""
    found = []
    cells = code_cells(notebook)
    for number, cell in enumerate(cells, 1):
        found += [f"code cell {number}: {problem}" for problem in cell_problems(cell)]
        near = cells[number - 1 : number - 1 + CLAIM_WITHIN]
        if is_tagged(cell) and number > 1 and not any("assert " in c.source for c in near):
            found.append(f"code cell {number}: output is ignored and no claim is asserted soon after")
    return found


def cell_problems(cell) -> list[str]:
    found = []
    lines = cell.source.split("\n")
    if len(lines) > MAX_LINES:
        found.append(f"{len(lines)} lines")
    if max(map(len, lines)) > MAX_COLUMNS:
        found.append(f"{max(map(len, lines))} columns")
    if cell.execution_count is None:
        found.append("never executed")
    if not is_tagged(cell) and any("image/png" in o.get("data", {}) for o in cell.outputs):
        found.append("holds a picture, which nbval never compares, and is not tagged")
    for output in cell.outputs:
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"stores an error or a warning: {(text or output.get('ename'))[:60]!r}")
        if MACHINE_PATH.search(text):
            found.append(f"shows a path of the machine: {MACHINE_PATH.search(text).group()!r}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_keeps_the_written_rules(path):
    assert path.stat().st_size < MAX_BYTES
    assert problems(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_begins_with_the_short_doctor(path):
    assert "doctor.brief()" in code_cells(nbformat.read(path, as_version=4))[0].source


def test_there_is_a_notebook():
    assert NOTEBOOKS


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def executed(source, tags=(), **output):
    cell = nbformat.v4.new_code_cell(source, execution_count=1, metadata={"tags": list(tags)})
    if output:
        cell.outputs = [nbformat.v4.new_output(**output)]
    return cell


FIRST = executed("1 + 1")
STREAM = {"output_type": "stream", "text": "x"}


@pytest.mark.parametrize(
    "cell, problem",
    [
        (executed("\n".join("x" * 20)), "20 lines"),
        (executed("x" * 79), "79 columns"),
        (nbformat.v4.new_code_cell("1"), "never executed"),
        (executed("1", **STREAM, name="stderr"), "error or a warning"),
        (executed("1", output_type="error", ename="ValueError"), "error or a warning"),
        (executed("1", output_type="display_data", data={"image/png": ""}), "not tagged"),
        (executed("1", output_type="stream", name="stdout", text="/home/me/x"), "path of the machine"),
        (executed("time()", tags=[IGNORE]), "no claim"),
    ],
)
def test_each_broken_rule_is_found(cell, problem):
    assert problem in " ".join(problems(notebook_of(FIRST, cell)))


def test_a_claim_soon_after_a_tagged_cell_is_enough():
    cells = executed("t = time()", tags=[IGNORE]), executed("print(t)"), executed("assert t > 0")
    assert problems(notebook_of(FIRST, *cells)) == []
