"""Runs the notebooks of examples/ and keeps what they show in them: what a code host shows of them, and the site.

python docs/notebooks.py [NAME ...]
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = tuple(
    sorted(FOLDER.glob("*.ipynb"), key=lambda path: path.stem, reverse=True)
)  # quickstart makes the store
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def code_hash(notebook: Any) -> str:
    """Hash of the code of a notebook: outputs are of this code, or stale."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def run(notebook: Any, folder: Path, **options: Any) -> Any:
    """Run a notebook in a folder, and leave in it nothing that differs from run to run but what it shows."""
    with tempfile.TemporaryDirectory() as sockets:  # files, not ports, which others could talk to
        local = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=1800, resources=place, config=local, **options).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each message came
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "giga": {"code": code_hash(notebook)},
    }
    return notebook


if __name__ == "__main__":
    for file in NOTEBOOKS:
        if not sys.argv[1:] or file.stem in sys.argv[1:]:
            made = run(nbformat.read(file, as_version=4), FOLDER)
            nbformat.write(made, file)
