"""Do the tests notice a defect in the tensor engine? ``python 99_Deployment_Tests/mutation.py --sample 300``

Mutation testing (DeMillo, Lipton and Sayward 1978): one small defect at a time is put into the functions of
`shared.tensor` (the operations, what they share, the decorators that lift them, and the walk backwards) in a copy of the
course, and the tests of chapter 04 run until one fails. A mutant that passes them all survives: a test is missing, or the
defect changes nothing that can be seen. `mutation.md` explains the survivors. The defects are those of the package
cosmic-ray, but for the ones that can only raise, such as ``a << b`` for ``a * b`` on floats. Each mutant runs in a forked
process, so that nobody waits for imports. Needs Linux or macOS, and ``pip install cosmic-ray pytest hypothesis torch``.
The results are kept line by line in the file of `--results`: a run that was interrupted goes on where it stopped.
"""

import argparse
import ast
import hashlib
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

ROOT = Path(__file__).resolve().parents[1]
MODULE = Path("04_Tensor_Class", "tensor.py")
TESTS = [["tensor_operations"], ["tensor", "tensor_graph", "tensor_torch"]]  # the quick ones, which find most, before the others
ONLY_RAISES = re.compile("_(RShift|LShift|BitAnd|BitOr|BitXor)$|_BitOr_|_Is(Not)?_(Lt|LtE|Gt|GtE)$")
SECONDS, BYTES = 120, 16 << 30  # of processor time and of addresses: a mutant that takes more is caught


def mutants(source):
    """The defects that cosmic-ray knows for the functions of a module, as (operator, occurrence, line)."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    lines = {line for node in functions for line in range(node.lineno - len(node.decorator_list), node.end_lineno + 1)}
    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments() or ONLY_RAISES.search(name):
            continue
        places = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        found += [(name, i, line) for i, (line, _) in enumerate(places) if line in lines]
    return found


def mutated(source, operator, occurrence):
    """The module's text with one defect, and what changed: the lines before and after."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = mutate_code(source, get_operator(operator)(), occurrence)
    before, after = source.splitlines(), text.splitlines()
    head = next(i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
    tail = next(i for i, pair in enumerate(zip(before[::-1], after[::-1], strict=False)) if pair[0] != pair[1])
    return text, ["\n".join(lines[head : max(head + 1, len(lines) - tail)]).strip() for lines in (before, after)]


def tested(tree, log):
    """Say what becomes of the mutant in a copy of the course."""
    outcomes = (ran(tree, [f"99_Deployment_Tests/test_{name}.py" for name in names], log) for names in TESTS)
    return next((outcome for outcome in outcomes if outcome != "survived"), "survived")


def ran(tree, files, log):
    """Run test files in a forked process, and say what became of the mutant."""
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return "survived" if status == 0 else "caught by a test" if status > 0 else "out of time or crashed"
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        import pytest

        status = pytest.main(["-x", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", *files])
        sys.stdout.flush()
        os._exit(status)
    finally:
        os._exit(3)


def compiles(text):
    """Whether a text is a program: cosmic-ray takes the star in ``def f(x, *, dim)`` for a product."""
    try:
        compile(text, str(MODULE), "exec")
    except SyntaxError:
        return False
    return True


def witness(log):
    """The test that failed, from pytest's output."""
    found = re.findall(r"^(?:FAILED|ERROR) \S*?(test_\w+\.py\S*)", Path(log).read_text(errors="replace"), re.M)
    return found[0] if found else ""


def main(arguments=None):
    """Test the mutants, and print the counts and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--results", type=Path, default=Path("mutation.jsonl"), help="kept here (default mutation.jsonl)")
    options = parser.parse_args(arguments)
    import hypothesis.strategies  # noqa: F401  (the forked processes find these loaded)
    import pytest  # noqa: F401
    import torch  # noqa: F401
    from tqdm import tqdm

    source = (ROOT / MODULE).read_text()
    everything, version = mutants(source), hashlib.sha256(source.encode()).hexdigest()
    random.Random(options.seed).shuffle(everything)
    chosen = everything[: options.sample]
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = {tuple(r["mutant"]): r for r in map(json.loads, lines) if r["source"] == version}
    with tempfile.TemporaryDirectory() as folder, options.results.open("a") as file:
        tree, log = Path(folder, "course"), Path(folder, "log")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "cache", "__pycache__", "*.ipynb", "checkpoints"))
        if tested(tree, log) != "survived":
            raise SystemExit(f"the tests fail without a mutant:\n{log.read_text()}")
        for path in tree.rglob("tensor.*.pyc"):  # a stale module must not stand in for a mutant of the same length
            path.unlink()
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        for mutant in tqdm([mutant for mutant in chosen if mutant not in results]):
            text, change = mutated(source, *mutant[:2])
            (tree / MODULE).write_text(text)
            outcome, test = "no program", ""
            if compiles(text):
                outcome, test = tested(tree, log), witness(log)
            results[mutant] = {"mutant": mutant, "change": change, "outcome": outcome, "test": test, "source": version}
            print(json.dumps(results[mutant]), file=file, flush=True)
    found = [results[mutant] for mutant in chosen]
    counts = Counter(result["outcome"] for result in found)
    print(f"{len(chosen)} of {len(everything)} mutants:", ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    for result in sorted(found, key=lambda result: result["mutant"][2]):
        if result["outcome"] == "survived":
            print(f"line {result['mutant'][2]}, {result['mutant'][0]}\n    {result['change'][0]}\n    {result['change'][1]}")


if __name__ == "__main__":
    main()
