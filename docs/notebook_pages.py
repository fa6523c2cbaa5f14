"""Executes notebooks in their full form and writes them with their outputs, as the documentation shows them.

    python docs/notebook_pages.py [NAME ...]

Sources are `notebooks/NAME.py`; the results, `docs/notebooks/NAME.ipynb`, are committed. Without names, all are
executed. It needs the extra `test`.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from PIL import Image

DOCS = Path(__file__).parent
SOURCES, PAGES = DOCS.parent / "notebooks", DOCS / "notebooks"
TIMEOUT = 900
"""Seconds that a cell may take."""


def execute(source: Path, timeout: int = TIMEOUT) -> Any:
    """Executes a notebook from top to bottom.

    Returns:
      The notebook with outputs, and without times, versions and paths of the machine.
    """
    notebook = jupytext.read(source)
    # a backend that draws into the notebook, whatever the shell asks for
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    client.execute(env=environment)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext's are random
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_palette(output["data"]["image/png"])
    return notebook


def with_palette(picture: str) -> str:
    """Reduces a PNG, base64, to 256 colours: it takes a third of the space, and looks the same."""
    image, file = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(names: list[str]) -> None:
    """Executes and writes the notebooks of these names, or all."""
    os.environ.pop("JAXMETA_QUICK", None)
    PAGES.mkdir(exist_ok=True)
    for name in names or sorted(source.stem for source in SOURCES.glob("*.py")):
        page = PAGES / f"{name}.ipynb"
        nbformat.write(execute(SOURCES / f"{name}.py"), page)
        print(f"{page.relative_to(DOCS.parent)}  {page.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
