"""Runs notebooks and keeps their outputs: `make notebooks`, after any change of what they show."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CHECKPOINT = 'CHECKPOINT = "shapes"'


def executed(path: Path, folder: Path, checkpoint: str | None = None) -> NotebookNode:
    """The notebook, run from top to bottom in a folder of its own; raises where a cell does."""
    book = nbformat.read(path, as_version=4)
    if checkpoint is not None:
        (cell,) = (cell for cell in book.cells if CHECKPOINT in cell.source)
        cell.source = cell.source.replace(CHECKPOINT, f"CHECKPOINT = {checkpoint!r}")
    NotebookClient(book, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


def slim(book: NotebookNode) -> NotebookNode:
    """Without times and noise, and of two renderings of one picture the smaller."""
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output.data.pop("image/png", None)
    return book


def main() -> None:
    """Writes every notebook anew, with its outputs."""
    from tempfile import TemporaryDirectory

    for path in NOTEBOOKS:
        with TemporaryDirectory() as folder:
            nbformat.write(slim(executed(path, Path(folder))), path)
        print(path.name)


if __name__ == "__main__":
    main()
