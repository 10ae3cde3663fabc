"""Store notebooks as Run All leaves them: ``python 99_Deployment_Tests/store_notebook.py NOTEBOOK...``

Executes each notebook from its own folder in a fresh kernel and writes it back with counts from 1 to n and no metadata
but a cell's tags and a picture's alternative text. A notebook in which a cell fails or writes to stderr is not written.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def clean(notebook):
    """Strip everything that another run or another editor would write differently."""
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            if "metadata" in output:
                kept = {
                    mime: {"alt": note["alt"]}
                    for mime, note in output.metadata.items()
                    if isinstance(note, dict) and "alt" in note
                }
                output.metadata = nbformat.from_dict(kept)


def joined(outputs):
    """The outputs with what was printed in one go in one piece: the kernel sends it in parts as its clock decides, and
    some viewers show each part as a paragraph of its own."""
    whole = []
    for output in outputs:
        before = whole[-1] if whole else {}
        if output.output_type == before.get("output_type") == "stream" and output.name == before.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def run(path):
    """Execute the notebook at `path` and return it; raises RuntimeError where a cell fails or writes to stderr."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"cell {cell.id!r} wrote to stderr: {output.text}")
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                raise RuntimeError(f"cell {cell.id!r}: {output.ename}: {output.evalue}")
    clean(notebook)
    return notebook


def main():
    """Command line: run and store each notebook named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    for path in parser.parse_args().notebooks:
        try:
            notebook = run(path)
        except (CellExecutionError, RuntimeError) as error:
            print(f"{path}: not stored\n{error}", file=sys.stderr)
            return 1
        temporary = path.with_name(path.name + ".tmp")
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
        print(f"{path}: stored, {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
