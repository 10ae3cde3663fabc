"""The benchmarks compute what they say, from times that these tests make up, and go on where a contestant cannot."""

import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parent / "benchmarks"
MADE_UP = """
import sys
if sys.argv[2] == "absent":
    import a_library_that_nobody_has
engine, turn = sys.argv[-1], 0
print("ready", flush=True)
for line in sys.stdin:
    count, name = line.rstrip("\\n").split(" ", 1)
    turn += 1
    seconds, value = eval(sys.argv[1])
    if sys.argv[2] == "without b" and name == "b":
        print("failed: TypeError: no such step", flush=True)
    elif sys.argv[2] == "dies" and turn > 3:
        raise SystemExit("out of breath")
    else:
        print(seconds, value, 7.5, flush=True)
"""


@pytest.fixture
def bench(monkeypatch):
    """A function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def made_up(tmp_path):
    """A function that gives the command of a contestant whose seconds and value are an expression in `name` and `turn`."""
    script = tmp_path / "made_up.py"
    script.write_text(MADE_UP)
    return lambda expression, manner="well": (str(script), expression, manner)


def test_a_ratio_is_ours_over_the_others_pair_by_pair(bench, made_up):
    compare = bench("compare")
    commands = {"ours": made_up("(0.01 * turn, 1)"), "twice": made_up("(0.02 * turn, 1)"), "other": made_up("(0.1, 1)")}
    with compare.started(commands) as contestants:
        found = compare.contest(contestants, 5, 0.0)
    assert found["twice"]["ratio"] == pytest.approx((0.5, 0.5, 0.5))  # the drift of the machine cancels
    ours = 0.01 * np.arange(7, 12)  # after a warm-up and the five runs of the pair before
    assert found["other"]["ratio"] == pytest.approx(np.percentile(ours / 0.1, [50, 10, 90]))
    assert found["other"]["parts"][""] == {"seconds": 0.1, "value": 1.0, "ratio": found["other"]["ratio"]}
    assert found["ours"]["ratio"] is None and found["ours"]["peak"] == 7.5


def test_several_parts_have_a_geometric_mean(bench, made_up):
    compare = bench("compare")
    commands = {"ours": made_up("(0.04, 1)"), "other": made_up("({'a': 0.01, 'b': 0.04, 'c': 0.32}[name], 1)")}
    with compare.started(commands) as contestants:
        found = compare.contest(contestants, 3, 0.0, parts=("a", "b", "c"))["other"]
    assert [found["parts"][name]["ratio"][0] for name in "abc"] == pytest.approx([4, 1, 1 / 8])
    assert found["ratio"] == pytest.approx([0.5 ** (1 / 3)] * 3)


def test_a_run_is_as_long_as_was_asked_and_slow_pairs_run_as_often_as_their_budget_allows(bench):
    compare, asked = bench("compare"), {"ours": [], "other": []}

    class Recorder:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def run(self, steps, part):
            asked[self.name].append(steps)
            return self.seconds, 1.0, 50.0

    compare.contest({"ours": Recorder("ours", 0.01), "other": Recorder("other", 0.07)}, 8, 0.2, warm_up=4)
    assert asked == {"ours": [4] + [20] * 8, "other": [4] + [3] * 8}
    asked["ours"].clear(), asked["other"].clear()
    compare.contest({"ours": Recorder("ours", 0.01), "other": Recorder("other", 4)}, 8, 0.2, warm_up=4, budget=13)
    assert asked == {"ours": [4] + [20] * 3, "other": [4] + [1] * 3}


@pytest.mark.parametrize(
    ("expression", "manner", "reason"),
    [
        ("(0.1, 1)", "absent", "not installed: 'a_library_that_nobody_has'"),
        ("(0.1, 1)", "dies", "out of breath"),
        ("(0.1, 1)", "without b", "TypeError: no such step"),
        ("(0.1, 2 if name == 'b' else 1)", "well", "gives 2, ours 1"),
        ("(0.1, float('nan') if name == 'b' else 1)", "well", "gives nan, ours 1"),
        ("(1 / 0, 1)", "well", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_contestant_that_cannot_leaves_a_reason(bench, made_up, expression, manner, reason):
    compare = bench("compare")
    commands = {"ours": made_up("(0.1, 1)"), "lame": made_up(expression, manner), "other": made_up("(0.2, 1)")}
    with compare.started(commands) as contestants:
        found = compare.contest(contestants, 4, 0.0, parts=("a", "b"), tolerance=1e-3)
    assert reason in found["lame"]["reasons"].values()
    assert found["other"]["ratio"] == pytest.approx((0.5, 0.5, 0.5)) and not found["other"]["reasons"]
    if "b" in found["lame"]["reasons"] and "a" not in found["lame"]["reasons"]:
        assert found["lame"]["ratio"] == pytest.approx((1, 1, 1))  # of the part that is left
    else:
        assert found["lame"]["ratio"] is None


def test_where_ours_fails_nobody_has_a_ratio(bench, made_up):
    compare = bench("compare")
    with compare.started({"ours": made_up("(0.1, 1)", "absent"), "other": made_up("(0.2, 1)")}) as contestants:
        found = compare.contest(contestants, 2, 0.0)
    assert found["other"]["ratio"] is None and found["other"]["reasons"][""].startswith("ours: not installed")


def test_a_contestant_that_hangs_is_ended(bench, tmp_path, monkeypatch):
    compare = bench("compare")
    monkeypatch.setattr(compare, "PATIENCE", 0.2)
    (tmp_path / "hang.py").write_text("import time\ntime.sleep(60)")
    with compare.started({"ours": (str(tmp_path / "hang.py"),)}) as contestants:
        assert contestants["ours"].reason == "ended with status -9"


def test_serving_counts_the_step_and_not_its_preparation(bench, monkeypatch, capsys):
    compare, clock = bench("compare"), [0.0]
    monkeypatch.setattr(compare.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(compare, "peak_memory", lambda: 12.0)

    def wait(seconds):
        clock[0] += seconds
        return seconds

    times = iter([3.0, 1.0, 2.0])
    steps = {"plain": lambda: wait(next(times)), "a pair": (lambda: (wait(50.0),), lambda x: x / wait(4.0)),
             "broken": lambda: 1 / 0}
    monkeypatch.setattr(sys, "stdin", io.StringIO("3 plain\n2 a pair\n1 broken\n1 a pair\n"))
    compare.serve(steps, lambda value: 10 * value)
    lines = ["ready", "2.0 20.0 12.0", "4.0 125.0 12.0", "failed: ZeroDivisionError: division by zero", "4.0 125.0 12.0"]
    assert capsys.readouterr().out.splitlines() == lines


def test_peak_memory_grows_with_what_was_used(bench):
    compare = bench("compare")
    before = compare.peak_memory()
    np.ones(int(before + 64) << 17)  # doubles, as many MB as the peak and 64 more
    assert compare.peak_memory() > before + 32


@pytest.fixture
def run(bench, made_up, monkeypatch, tmp_path):
    """A function that calls `run.py` in a folder of its own, with workloads whose figures are made up; and the module."""
    module = bench("run")
    script, *_ = made_up("")
    monkeypatch.setattr(module, "HERE", Path(script).parent)
    first = ("(0.1 if engine == 'ours' else 0.4, 1)", "well", "{}")
    second = ("(0.1 if engine == 'ours' else 0.05 if engine == 'PyTorch' else 1 / 0, 1)", "well", "{}")
    monkeypatch.setattr(module, "WORKLOADS", {
        "first": module.Workload("01 first", "made_up.py", first, ("PyTorch",)),
        "second": module.Workload("02 second", "made_up.py", second, ("PyTorch", "npTensor"), ("a", "b")),
    })
    where = ["--json", str(tmp_path / "results.json"), "--picture", str(tmp_path / "picture.png"), "--rounds", "2"]
    return lambda *arguments: module.main([*arguments, *where]), module


def test_the_table_has_a_line_for_each_workload_and_reasons_below(run, tmp_path, capsys):
    call, _ = run
    call()
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[:4]] == ["ours / other", "PyTorch", "npTensor", "HIPS autograd"]
    assert [cell.strip() for cell in lines[2].split("|")] == ["01 first", "0.25 (0.25 to 0.25)", "-", "-", "-", "8, 8"]
    assert [cell.strip() for cell in lines[3].split("|")][:3] == ["02 second", "2.00 (2.00 to 2.00)", "-"]
    assert lines[5:] == ["No figure for", "  02 second, npTensor: ZeroDivisionError: division by zero in a, b"]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["second"]["engines"]["PyTorch"]["ratio"] == [2.0, 2.0, 2.0]
    assert stored["first"]["engines"]["ours"]["milliseconds"] == {"": 100.0}
    assert {path.name for path in tmp_path.iterdir()} == {"made_up.py", "results.json", "picture.png"}  # no half-written file
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert min(picture.shape[:2]) > 100 and np.ptp(picture) > 0


def test_what_was_measured_is_kept(run, tmp_path, monkeypatch):
    call, module = run
    measured, measure = [], module.measure

    def recorded(workload, *arguments):
        measured.append(workload.title)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(workload, *arguments)

    monkeypatch.setattr(module, "measure", recorded)
    with pytest.raises(KeyboardInterrupt):
        call()
    call("--resume")
    assert measured == ["01 first", "02 second", "02 second"]
    call("--resume")
    call("--show")
    assert len(measured) == 3
    call("--only", "first")
    assert measured[3:] == ["01 first"] and set(json.loads((tmp_path / "results.json").read_text())) == {"first", "second"}
    call("--resume", "--fast")  # other settings
    assert measured[4:] == ["01 first", "02 second"]


def test_nothing_to_show_is_said(run):
    with pytest.raises(SystemExit, match=r"nothing measured yet: results\.json"):
        run[0]("--show")


WORKLOADS = (
    "scalar-operations", "scalar-moons", "operations-1", "operations-1000", "operations-1000000", "mlp", "mnist", "cifar",
    "inference", "gpt", "gpt-shared", "gpt-large", "generate",
)


@pytest.mark.parametrize("key", WORKLOADS)
def test_our_contestant_of_each_workload_works(bench, key):
    """One step of one part of the real thing."""
    run, compare = bench("run"), bench("compare")
    assert tuple(run.WORKLOADS) == WORKLOADS
    workload = run.WORKLOADS[key]
    command = (run.HERE / workload.script, *(argument.format("ours") for argument in workload.arguments))
    with compare.started({"ours": command}) as contestants:
        seconds, value, peak = contestants["ours"].run(1, workload.parts[-1])
    assert seconds > 0 and np.isfinite(value) and peak > 20
