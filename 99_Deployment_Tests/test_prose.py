"""The course as a book: links lead somewhere, references have years, citations have references, words are spelled right.

A rule is a function that yields one sentence for each offence, as in notebook_style.py, and each is shown a text that
breaks it.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest

from shared import CHAPTER_FOLDERS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for folder in CHAPTER_FOLDERS for path in sorted(folder.glob("*.ipynb"))]
CHAPTERS = [path for path in NOTEBOOKS if path.stem != "solutions"]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[0-9s]*/*.md")), *sorted(ROOT.glob("shared/data/*.md"))]
MODULES = sorted([*ROOT.glob("[0-9]*/*.py"), *ROOT.glob("shared/*.py"), *ROOT.glob("99_Deployment_Tests/benchmarks/*.py")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:href|src)=[\"']([^\"']+)")
PICTURE = re.compile(r"!\[[^\]]*\]\((https?:[^)\s]+)\)|<img[^>]+src=[\"'](https?:[^\"']+)")

# words of the course that codespell takes for misspelt ones: names, symbols, shortened words in examples
KNOWN_WORDS = ["hart", "toom", "trough"]


# --- the texts --------------------------------------------------------------------------------------------------------


def without_code(text):
    """Markdown without its program text, which has laws of its own."""
    return re.sub(r"```.*?```|``[^`]*``|`[^`\n]*`", " ", text, flags=re.DOTALL)


@cache
def markdown(path):
    """All Markdown of a notebook or a page."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@cache
def docstrings(path):
    """All docstrings of a module, as one text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return "\n\n".join(filter(None, (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))))


# --- links and pictures -----------------------------------------------------------------------------------------------


def anchors(text):
    """The names by which headings can be linked to: as GitHub makes them, and as JupyterLab does."""
    headings = [line.lstrip("#").strip() for line in without_code(text).split("\n") if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | {
        heading.replace(" ", "-") for heading in headings
    }


def dead_links(text, path):
    """Every link inside the course leads to a file or a folder, and one with an anchor to a heading in it."""
    for link in ("".join(found) for found in LINK.findall(without_code(text))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if name and not target.exists():
            yield f"the link to {link} leads nowhere"
        elif anchor and anchor not in anchors(text if target == path else markdown(target)):
            yield f"the link to {link}: there is no such heading"


def fetched_pictures(text, path):
    """No picture is fetched from the network."""
    for picture in PICTURE.findall(text):
        yield f"a picture is fetched from the network: {''.join(picture)}"


# --- references and citations -----------------------------------------------------------------------------------------

YEAR = r"(?:1[89]|20)\d\d"
NAME = r"[A-Z][\w’'-]*[a-zß-ÿ][\w’'-]*"
PEOPLE = rf"{NAME}(?:(?:, (?:and )?| and ){NAME})*(?:,? et al\.|,? and others)?"
CITATION = re.compile(rf"\b({PEOPLE})(?:,? \(({YEAR})[a-z]?((?:, {YEAR})*)\)|,? ({YEAR})(?=[);,]))")
REFERENCES = re.compile(r"\*\*(?:References|To read)\.?\*\*|^#+ (?:References|To read on)\b", re.MULTILINE)
# a capital letter before a year in brackets that is no author
NO_AUTHORS = {"In", "Since", "Section", "Chapter", "BIT", "Until", "Before", "After"}


def reference_list(text):
    """What stands under the heading of a chapter's references, up to the next heading or to what comes next."""
    start = REFERENCES.search(text)
    if not start:
        return ""
    return re.split(r"\n#+ |\*\*(?:Next|Tonight)\b", text[start.end() :])[0]


def entries(references):
    """The entries of a list of references: its bullets, or what dots and semicolons set apart, or one running text."""
    bullets = re.findall(r"^- (.*(?:\n(?!- |\n).*)*)", references, re.MULTILINE)
    parts = [part for bullet in bullets for part in bullet.split(";")] if bullets else re.split(r" · |;", references)
    return [part.strip() for part in parts if part.strip()]


def undated_references(text, path):
    """There is a list of references, and every entry of it has a year."""
    references = reference_list(text)
    if not references:
        yield "the chapter has no references"
    for entry in entries(references):
        if not re.search(rf"\b{YEAR}\b", entry):
            yield f"a reference without a year: {entry[:60]}"
    dated = False
    for year, title in re.findall(rf"\b({YEAR})\b|(\*[^*\n]+\*)", references):
        if title and not dated:
            yield f"a reference without a year: {title}"
        dated = bool(year)


def uncited(text, references):
    """Every citation, Name (year), has an entry with that first author and that year in the list of references."""
    body = without_code(text.replace(references, "") if references else text)
    for people, year, more, bare in CITATION.findall(body.replace("\n", " ")):
        first = re.match(NAME, people)[0]
        if first in NO_AUTHORS:
            continue
        for wanted in re.findall(YEAR, f"{year}{more}{bare}"):
            if not re.search(rf"\b{first}\b[^()]{{0,120}}\([^)]*{wanted}", references.replace("\n", " ")):
                yield f"{people} ({wanted}) is cited and not among the references"


# --- tables -----------------------------------------------------------------------------------------------------------


def rows(text, heading):
    """The rows of the table under a heading, without its head, as lists of cells."""
    section = re.search(rf"^## {heading}\n(.*?)(?:^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def wrong_table_of_chapters(text):
    """The first column of README's table of chapters names the chapters' folders, each once and in order."""
    named = [LINK.search(row[0])[1].split("/")[0] for row in rows(text, "Chapters")]
    if named != [folder.name for folder in CHAPTER_FOLDERS]:
        yield f"the table of chapters names the folders {named}"


def without_notation(cells):
    """A chapter's glance ahead leads to the table of symbols."""
    glances = [cell.source for cell in cells if cell.cell_type == "markdown" and "At a glance" in cell.source]
    if not any("(../shared/NOTATION.md)" in glance for glance in glances):
        yield "At a glance has no link to the notation"


@cache
def code(number):
    """All code of the chapter with this number."""
    chapter = next(path for path in CHAPTERS if path.parent.name.startswith(number))
    return "\n".join(cell.source for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code")


def unknown_names(row):
    """The names in code of a row of the notation occur in the code of the chapter that introduces the symbol."""
    _, _, _, names, introduced = row
    for name in re.findall(r"`([^`]+)`", names):
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code(introduced[:2])):
            yield f"{name} does not occur in chapter {introduced[:2]}"


# --- spelling ---------------------------------------------------------------------------------------------------------


def misspelt(texts, folder):
    """What codespell objects to in a table of texts by name: one line each, with name, line, word and correction."""
    for name, text in texts.items():
        words = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " ", without_code(text), flags=re.DOTALL)
        (folder / name.replace("/", " ")).write_text(words, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", ",".join(KNOWN_WORDS), str(folder)]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


# --- the tests --------------------------------------------------------------------------------------------------------


def named(path):
    """The path as the course writes it."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("rule", [dead_links, fetched_pictures])
@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=named)
def test_links(path, rule):
    assert list(rule(markdown(path), path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=named)
def test_references(path):
    text = markdown(path)
    references = reference_list(text)
    documented = docstrings(path.with_suffix(".py"))
    assert [*undated_references(text, path), *uncited(text, references), *uncited(documented, references)] == []


def test_spelling(tmp_path):
    texts = {named(path): markdown(path) for path in [*NOTEBOOKS, *PAGES]}
    assert misspelt(texts | {named(path): docstrings(path) for path in MODULES}, tmp_path) == []


def test_readme_lists_every_chapter():
    assert list(wrong_table_of_chapters(markdown(ROOT / "README.md"))) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=named)
def test_each_chapter_leads_to_the_notation(path):
    assert list(without_notation(nbformat.read(path, as_version=4).cells)) == []


@pytest.mark.parametrize("row", rows(markdown(ROOT / "shared/NOTATION.md"), "Symbols"), ids=lambda row: row[0])
def test_notation_names_what_the_chapter_has(row):
    assert list(unknown_names(row)) == []


# --- each rule can say no ---------------------------------------------------------------------------------------------


def page(folder, text="# A page\n\n## One more heading\n"):
    """Write a page for links to lead to; returns the path of another page beside it."""
    (folder / "page.md").write_text(text, encoding="utf-8")
    return folder / "here.md"


@pytest.mark.parametrize(
    "link", ["gone.md", "page.md#gone", "#gone", "gone/", "../gone.ipynb", "page.md#one-more", "page.md#here"]
)
def test_a_dead_link_is_found(tmp_path, link):
    text = f"# Here\n\n[a link]({link})"
    assert len(list(dead_links(text, page(tmp_path)))) == 1
    assert len(list(dead_links(f'# Here\n\n<a href="{link}">', page(tmp_path)))) == 1


@pytest.mark.parametrize(
    "link", ["page.md", "page.md#one-more-heading", "page.md#One-more-heading", "#here", "https://example.org/gone"]
)
def test_a_link_that_leads_somewhere_is_left_alone(tmp_path, link):
    assert list(dead_links(f"# Here\n\n[a link]({link}) and `[no](link)`", page(tmp_path))) == []


@pytest.mark.parametrize("text", ["![a](https://example.org/a.png)", '<img width=3 src="http://example.org/a.png">'])
def test_a_fetched_picture_is_found(text):
    assert len(list(fetched_pictures(text, None))) == 1


REFERENCES_IN_EVERY_FORM = [
    "**References.** A. Moss and others (2001), *On moss*. B. Fern (1999), *On fern*; C. Reed (2003). **Next:** more *titles*",
    "### References\n\n- A. Moss, X. Lee (2001), On moss. *Botany* 3.\n- B. Fern (1999),\n  *On fern*; C. Reed (2003).\n\n# Next",
    "**References.** Moss et al. (2001), On moss · Fern (1999), On fern · Reed (2003)",
]


@pytest.mark.parametrize("text", REFERENCES_IN_EVERY_FORM)
def test_references_in_every_form(text):
    references = reference_list(text)
    assert list(undated_references(text, None)) == []
    cited = "Moss et al. (2001) and Fern (1999) say so, as (Reed, 2003) does. Moss and Lee (2001) agreed."
    assert list(uncited(f"{cited}\n\n{text}", references)) == []
    for wrong in ("Moss (2002)", "Heath (1999)", "Fern and Moss (2003)", "(Reed, 1999)", "Moss et al. 2003;"):
        assert len(list(uncited(wrong, references))) == 1
    without_year = text.replace(" (1999)", "")
    assert list(undated_references(without_year, None))


def test_a_chapter_without_references_is_found():
    assert list(undated_references("# A chapter\n\nIt has none.", None))


def test_a_misspelt_word_is_found(tmp_path):
    texts = {"a/b.md": "This is writen.", "c.md": "`writen` $writen$ and\n```\nwriten\n```\nwritten"}
    assert [line.split(":")[-1].strip() for line in misspelt(texts, tmp_path)] == ["writen ==> written"]


def test_a_wrong_table_of_chapters_is_found():
    text = markdown(ROOT / "README.md")
    first, second = (f"]({folder.name})" for folder in CHAPTER_FOLDERS[:2])
    assert list(wrong_table_of_chapters(text.replace(first, "](00_Gone)")))
    assert list(wrong_table_of_chapters(text.replace(first, second)))
    assert list(wrong_table_of_chapters("## Chapters\n\n| chapter |\n|---|\n"))


def test_a_glance_without_notation_is_found():
    def cells(text):
        return [nbformat.v4.new_markdown_cell("See [it](../shared/NOTATION.md)"), nbformat.v4.new_markdown_cell(text)]

    assert list(without_notation(cells("## At a glance\n\n[a](../shared/NOTES.md)")))
    assert list(without_notation(cells("## At a glance\n\n[a](../shared/NOTATION.md)"))) == []


def test_a_name_that_no_code_has_is_found():
    assert len(list(unknown_names(["$x$", "", "", "`value`, `no_such_name`", "02"]))) == 1
