"""From notebook to module: ``python -m shared.export`` writes the module of every chapter afresh, ``--check`` compares.

A code cell whose first line is ``#| export`` belongs to the module that has the notebook's name. The exporter gathers
these cells in order, moves their imports to the top, writes functions decorated with ``@method_of(Class)`` into the
body of their class, and adds a docstring and ``__all__``. A module is never edited by hand.
"""

import argparse
import ast
import io
import json
import os
import re
import sys
import textwrap
import tokenize
from pathlib import Path

from shared import CHAPTER_FOLDERS

__all__ = ["ExportError", "export_all", "method_of", "module_source"]

ROOT = Path(__file__).resolve().parent.parent
MARKER = "#| export"
NEAR_MISS = re.compile(r"^\s*#\s*\|?\s*export\b", re.IGNORECASE)


class ExportError(ValueError):
    """A notebook cannot be exported; the message names the notebook and the cell."""


def method_of(cls, *other_names):
    """Decorator that adds a function to the class `cls` under its own name and `other_names`.

    A notebook uses it to grow a class step by step; the exporter writes the same functions into the class body.
    """

    def add(function):
        inner = getattr(function, "fget", None) or getattr(
            function, "__func__", function
        )  # property, static or class method
        for name in (inner.__name__, *other_names):
            setattr(cls, name, function)
        return function

    return add


def export_cells(notebook, where):
    """The sources of the cells marked for export, without their marker, as (place, source) pairs."""
    for number, cell in enumerate(notebook["cells"]):
        place = f"{where}, cell {cell.get('id', number)!r}"
        if cell["cell_type"] != "code":
            continue
        first, *rest = "".join(cell["source"]).split("\n")
        stray = [line for line in rest if NEAR_MISS.match(line)] or (first != MARKER and NEAR_MISS.match(first))
        if stray:
            raise ExportError(
                f"{place}: the first line of an exported cell is exactly {MARKER!r}, and nothing else looks like it"
            )
        if first == MARKER:
            yield place, "\n".join(rest)


def statements(source, place):
    """Split a cell into its top-level statements: (syntax tree, lines with the comments above them)."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ExportError(f"{place}: exported code is plain Python, without magics: {error}") from error
    lines, start = source.split("\n"), 0
    for i, node in enumerate(tree.body):
        end = node.end_lineno if i + 1 < len(tree.body) else len(lines)
        yield node, "\n".join(lines[start:end]).strip("\n")
        start = end


def owner_of(node):
    """For a function decorated with ``@method_of(Class, ...)``: the class's name and the other names; else None."""
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "method_of":
            return decorator.args[0].id, [name.value for name in decorator.args[1:]]
    return None


def method_source(node, text, place):
    """The function's text as it stands in a class body, followed by its other names."""
    names = owner_of(node)[1]
    docstring = ast.get_docstring(node, clean=False)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = tokenize.tok_name[token.type] in {"STRING", "FSTRING_MIDDLE"}
        if is_text and token.start[0] != token.end[0] and not (docstring and docstring in token.string):
            raise ExportError(f"{place}: a string over several lines would change when {node.name} moves into its class")
    lines = [line for line in text.split("\n") if not line.startswith("@method_of(")]
    if names:
        lines += ["", *(f"{name} = {node.name}" for name in names)]
    return textwrap.indent("\n".join(lines), "    ")


def add_import(imports, node, text, place):
    """Note one import statement in `imports`, a table from section and module to what is imported."""
    if "#" in text:
        raise ExportError(f"{place}: a comment at an import would be lost when it moves to the top of the module")
    for alias in node.names:
        module = node.module if isinstance(node, ast.ImportFrom) else alias.name
        root = module.split(".")[0]
        section = 0 if root in sys.stdlib_module_names else 2 if root == "shared" else 1
        name = alias.name + (f" as {alias.asname}" if alias.asname else "")
        imports.setdefault((section, isinstance(node, ast.ImportFrom), module), set()).add(name)


def import_block(imports):
    """The import statements, sorted in sections as ruff wants them."""
    sections = {}
    for (section, is_from, module), names in sorted(imports.items()):
        if not is_from:
            lines = [f"import {name}" for name in sorted(names)]
        else:
            line = f"from {module} import {', '.join(sorted(names, key=name_order))}"
            if len(line) > 120:
                listed = "".join(f"    {name},\n" for name in sorted(names, key=name_order))
                line = f"from {module} import (\n{listed})"
            lines = [line]
        sections.setdefault(section, []).extend(lines)
    return "\n\n".join("\n".join(lines) for lines in sections.values())


def name_order(name):
    """Sort key of ``__all__`` and of imports: constants, then classes, then functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


def defined_names(node):
    """The names that a top-level statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def module_source(notebook, where):
    """The text of the module that `notebook` (as parsed from JSON) exports, or None where it exports nothing.

    `where` is the notebook's path from the project's root, for the docstring and for messages.
    Raises ExportError on a near miss of the marker, a magic, a name that is defined twice, a method for a class that
    this notebook does not export, and on text that could not be moved unchanged.
    """
    imports, chunks, classes, names = {}, [], {}, {}
    for place, source in export_cells(notebook, where):
        for node, text in statements(source, place):
            owner = owner_of(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                add_import(imports, node, text, place)
            elif owner:
                if owner[0] not in classes:
                    raise ExportError(
                        f"{place}: method_of({owner[0]}), but this notebook has not exported that class above"
                    )
                chunks[classes[owner[0]]] += "\n\n" + method_source(node, text, place)
            else:
                for name in defined_names(node):
                    if name in names:
                        raise ExportError(f"{place}: {name} was exported before, in {names[name]}")
                    names[name] = place
                if isinstance(node, ast.ClassDef):
                    classes[node.name] = len(chunks)
                chunks.append(text)
    if not chunks:
        return None
    title = next(
        (
            line[2:].strip()
            for cell in notebook["cells"]
            if cell["cell_type"] == "markdown"
            for line in "".join(cell["source"]).split("\n")
            if line.startswith("# ")
        ),
        Path(where).stem,
    )
    public = sorted((name for name in names if not name.startswith("_")), key=name_order)
    listed = "".join(f"    {json.dumps(name)},\n" for name in public)
    head = f'"""{title}\n\nExported from {where} by `python -m shared.export`: edit the notebook, not this file.\n"""'
    return (
        "\n".join(filter(None, [head, import_block(imports)]))
        + f"\n\n__all__ = [\n{listed}]\n\n\n"
        + "\n\n\n".join(chunks)
        + "\n"
    )


def export_all(root=ROOT, folders=None):
    """What every exported file should hold: a table from path to text, for all notebooks in the chapter folders.

    Each module ``name.py`` comes with ``shared/name.pyi``, by which editors and type checkers, which do not follow the
    window, find it. Raises ExportError where two files would answer to one name in ``shared``.
    """
    files, taken = {}, {path.stem: path for path in (root / "shared").glob("*.py")}
    for folder in CHAPTER_FOLDERS if folders is None else folders:
        for path in sorted(folder.glob("[!~.]*.ipynb")):  # ~ and . mark the copies that browser runs and editors leave
            where = path.relative_to(root).as_posix()
            text = module_source(json.loads(path.read_text(encoding="utf-8")), where)
            if text is None:
                continue
            if path.stem in taken:
                raise ExportError(f"{where}: shared.{path.stem} would hide {taken[path.stem].relative_to(root)}")
            taken[path.stem] = path
            files[path.with_suffix(".py")] = text
            files[root / "shared" / f"{path.stem}.pyi"] = f"from {path.stem} import *\n"
    return files


def write_whole(path, text):
    """Write `text` under a temporary name and rename it, so that `path` is never half written."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main(arguments=None):
    """Command line: write the modules that differ from their notebooks, or with ``--check`` only name them."""
    parser = argparse.ArgumentParser(
        prog="python -m shared.export", description="Write every chapter's module from its notebook."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a module differs from its notebook"
    )
    check = parser.parse_args(arguments).check
    try:
        files = export_all()
    except ExportError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'differs from its notebook' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            write_whole(path, files[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
