"""Execute notebooks in place and store them clean: run by `make notebooks`.

What stays is what a reader needs: sources, outputs, tags. What goes is what changes without
meaning: run times, widget state, the exact Python version. A notebook that fails is not written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    for path in parser.parse_args().notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        began = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=_in(path.parent)
        ).execute()
        clean(notebook)
        nbformat.write(notebook, path)
        print(f"{time.monotonic() - began:.0f} s")


def clean(notebook: nbformat.NotebookNode) -> None:
    """Strip what differs from run to run without meaning anything to a reader."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs: list) -> list:
    """Outputs with neighbouring pieces of one stream made one: where they part is chance."""
    whole = []
    for output in outputs:
        same_stream = whole and output.get("name") == whole[-1].get("name") == "stdout"
        if same_stream:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def _in(folder: Path) -> dict:
    return {"metadata": {"path": str(folder)}}


if __name__ == "__main__":
    main()
