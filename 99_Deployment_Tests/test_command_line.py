"""The program `python -m shared`: what it prints, how it ends, and that nobody ever sees a traceback."""

import argparse
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import shared
from shared import command_line, datasets, models
from shared.command_line import build_parser, main, training_runs
from shared.deployment import load_model, stored_models
from shared.models import Failure, default_text_model, prompt_ids
from shared.tensor import manual_seed
from shared.transformers import generate

Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install pillow")
COMMANDS = ["classify", "generate", "train", "export", "data", "models", "serve"]


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A file with the first 7 of the test set, dark on light, large, as JPEG."""
    data = datasets.mnist_embedded()
    picture = 255 - data.x_test[np.flatnonzero(data.y_test == 7)[0]]
    path = tmp_path_factory.mktemp("pictures") / "seven.jpg"
    Image.fromarray(picture).resize((300, 200)).save(path)
    return path


def failed(capsys, *arguments, code=1):
    """Run a command that must fail; returns its one line of explanation."""
    try:
        ended = main([str(argument) for argument in arguments])
    except SystemExit as end:
        ended = end.code
    _, err = capsys.readouterr()
    assert ended == code
    assert err.startswith("python -m shared") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


def test_without_a_command_it_explains_itself(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS) and "examples:" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples_that_it_accepts(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    out = capsys.readouterr().out
    examples = re.findall(rf"^  python -m shared ({command}.*)$", out, re.MULTILINE)
    assert end.value.code == 0 and examples
    for example in examples:
        words = example.replace("'", "").split(" < ")[0].split()
        assert build_parser().parse_args(words).run == getattr(command_line, f"{command}_command")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_the_true_defaults(command):
    """Where an option's help ends in a number in brackets; the prompt's default, an empty line, is told in words."""
    parser = build_parser()
    [commands] = [action for action in parser._actions if isinstance(action.choices, dict)]
    for action in commands.choices[command]._actions:
        told = re.search(r" \(([\d.]+)\)$", action.help or "")
        assert told or action.default in (None, argparse.SUPPRESS, [], "\n"), action
        assert not told or told[1] == f"{action.default}"


def test_the_ends_of_a_range_are_allowed():
    parse = build_parser().parse_args
    assert parse(["classify", "a", "--top", "1"]).top == 1 and parse(["classify", "a", "--top", "10"]).top == 10
    assert parse(["serve", "--port", "0"]).port == 0 and parse(["serve", "--port", "65535"]).port == 65535
    assert parse(["generate", "--temperature", "0", "--top-p", "1"]).temperature == 0


@pytest.mark.parametrize(("error", "line"), [
    (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory"),
    (OSError(28, "No space left on device"), "No space left on device"), (ValueError("two\n  lines"), "two lines"),
    (MemoryError(), "MemoryError"), (OSError("no network"), "no network")])
def test_a_reason_is_one_line(error, line, monkeypatch, capsys):
    """Whatever a command runs into."""
    monkeypatch.setattr(command_line, "described_models", lambda: (_ for _ in ()).throw(error))
    assert failed(capsys, "models") == f"python -m shared: {line}\n"


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.split()[-1] == shared.__version__


@pytest.mark.parametrize("arguments", [
    ["sing"], ["classify"], ["classify", "a.png", "--top", "0"], ["generate", "--temperature", "-1"],
    ["generate", "--top-p", "0"], ["generate", "--top-k", "x"], ["generate", "--temperature", "nan"], ["export", "mnist_cnn"],
    ["export", "mnist_cnn", "--format", "h5"], ["data", "imagenet"], ["serve", "--port", "70000"], ["train"],
])
def test_a_wrong_command_ends_with_2(arguments, capsys):
    assert "--help" in failed(capsys, *arguments, code=2)


def test_classify_names_the_digit(seven, capsys):
    assert main(["classify", str(seven), "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(rf"{re.escape(str(seven))}: 7 \d+\.\d%, \d \d+\.\d%\n", out)


def test_classify_takes_a_colour_picture_for_a_photograph(seven, tmp_path, capsys):
    sea = np.full((90, 120, 3), (40, 90, 170), np.uint8)
    Image.fromarray(sea).save(tmp_path / "sea.png")
    assert main(["classify", str(tmp_path / "sea.png")]) == 0
    assert set(re.findall(r"[a-z]{3,}", capsys.readouterr().out.split(": ")[1])) <= set(datasets.CIFAR10_CLASSES)
    assert main(["classify", str(tmp_path / "sea.png"), "--model", "mnist_mlp"]) == 0
    assert re.match(r"\d \d", capsys.readouterr().out.split(": ")[1])


@pytest.mark.parametrize(("spread", "coloured"), [(0, False), (7, False), (9, True)])
def test_what_counts_as_colour(spread, coloured):
    """What JPEG does to a grey scan does not count; a pale sky does."""
    picture = np.full((20, 30, 3), 100, np.uint8)
    picture[..., 2] += spread
    assert command_line.is_coloured(picture) is coloured


def test_classify_goes_on_after_a_picture_that_it_cannot_read(seven, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert main(["classify", str(tmp_path / "broken.png"), str(tmp_path / "none.png"), str(seven)]) == 1
    out, err = capsys.readouterr()
    assert ": 7 " in out and out.count("\n") == 1
    assert err.count("\n") == 2 and "broken.png" in err and "none.png" in err and "No such file" in err


def test_classify_reads_the_standard_input(seven, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(seven.read_bytes())))
    assert main(["classify", "-"]) == 0
    assert capsys.readouterr().out.startswith("-: 7 ")


def test_classify_refuses_a_model_of_text(seven, capsys):
    assert "shakespeare_small" in failed(capsys, "classify", seven, "--model", "shakespeare_small")
    assert "known are" in failed(capsys, "classify", seven, "--model", "resnet")


def test_generate_writes_what_generate_writes(capsys):
    stored = load_model("shakespeare_small")
    expected = generate(stored.model, "ROMEO:\n", 30, tokenizer=stored.tokenizer, temperature=0.7, top_k=9, top_p=0.9, seed=3)
    settings = ["--temperature", "0.7", "--top-k", "9", "--top-p", "0.9", "--seed", "3", "--model", "shakespeare_small"]
    assert main(["generate", "--prompt", "ROMEO:\n", "--tokens", "30", *settings]) == 0
    assert capsys.readouterr().out == expected + ("" if expected.endswith("\n") else "\n")


def test_a_line_of_text_is_printed_without_empty_lines_around_it(capsys):
    """The default prompt is the end of the line before, which is not shown; an end of line that the model wrote is the last."""
    stored = load_model("shakespeare_small")
    text = generate(stored.model, "\n", 200, tokenizer=stored.tokenizer, temperature=0.8, seed=0).removeprefix("\n")
    line = text[: text.index("\n", 1) + 1]
    for length, shown in [(len(line), line), (len(line) - 1, line)]:
        assert main(["generate", "--tokens", str(length), "--seed", "0", "--model", "shakespeare_small"]) == 0
        assert capsys.readouterr().out == shown


def test_generate_writes_another_text_each_time(capsys):
    """Unless a seed is given: the engine's own generator would begin in the same way in every process."""
    texts = set()
    for seed in ([], [], ["--seed", "5"], ["--seed", "5"]):
        manual_seed(0)  # as in a fresh process
        assert main(["generate", "--tokens", "30", "--temperature", "1", "--model", "shakespeare_small", *seed]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 3


def test_generate_says_what_is_wrong_with_a_prompt(capsys):
    line = failed(capsys, "generate", "--prompt", "Ofé", "--model", "shakespeare_small")
    assert re.fullmatch(r"python -m shared: prompt: [^:;=]*'é' at position 2[^:;=]* of shakespeare_small\n", line)
    assert "the prompt is empty; it needs" in failed(capsys, "generate", "--prompt", "")
    assert "no model of text" in failed(capsys, "generate", "--model", "mnist_cnn")


def test_the_text_model_is_the_best_one_stored(monkeypatch):
    assert default_text_model() == ("shakespeare" if "shakespeare" in stored_models() else "shakespeare_small")
    for names in (["shakespeare", "shakespeare_small"], ["shakespeare_small"]):
        monkeypatch.setattr(models, "stored_models", lambda names=names: dict.fromkeys(names))
        assert default_text_model() == names[0]
    with pytest.raises(Failure, match="no model gpt2"):
        default_text_model("gpt2")
    monkeypatch.setattr(models, "stored_models", dict)
    with pytest.raises(Failure, match="stored are none"):
        default_text_model()


def test_prompt_ids_are_the_tokenisers():
    stored = load_model("shakespeare_small")
    np.testing.assert_array_equal(prompt_ids(stored, "To be"), stored.tokenizer.encode("To be"))
    with pytest.raises(Failure, match="the prompt is empty; it needs at least one character"):
        prompt_ids(stored, "")


def test_models_lists_every_stored_model_with_its_figure(capsys):
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(stored_models())
    for name, path in stored_models().items():
        for key, value in json.loads(path.with_suffix(".json").read_text())["figure"].items():
            assert f"{key} {value}" in lines[name]
        assert f" {path.stat().st_size / 1e6:.1f} MB " in lines[name]


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_export_writes_a_file_that_others_read(kind, tmp_path, monkeypatch, capsys):
    library = pytest.importorskip(kind, reason=f"needs {kind}")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "mnist_cnn", "--format", kind]) == 0
    path = tmp_path / f"mnist_cnn.{kind}"
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    if kind == "onnx":
        library.checker.check_model(str(path))
    else:
        from safetensors.numpy import load_file

        weights = load_model("mnist_cnn").model.state_dict()
        assert set(load_file(path)) == set(weights)
    assert "no model 'vit'" in failed(capsys, "export", "vit", "--format", kind)
    assert "No such file" in failed(capsys, "export", "mnist_cnn", "--format", kind, "--out", tmp_path / "no" / "x")


def test_data_says_what_is_there_and_verifies_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert main(["data"]) == 0
    assert capsys.readouterr().out.count("not fetched yet") == len(command_line.DATA) == len(datasets._FULL_SETS)
    (tmp_path / "tinyshakespeare.txt").write_text("To be or not to be")
    assert "SHA-256" in failed(capsys, "data", "tinyshakespeare")
    monkeypatch.setattr(datasets, "tinyshakespeare", lambda: "x" * 1234)
    assert main(["data", "tinyshakespeare"]) == 0
    assert "1,234 characters" in capsys.readouterr().out


def test_data_counts_what_it_has_verified(tmp_path, monkeypatch, capsys):
    """Pictures for training and for the test, or rows; and whether they were there before."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "mnist", lambda: datasets.ImageData(np.zeros(60), np.zeros(60), np.zeros(10), np.zeros(10)))
    monkeypatch.setattr(datasets, "usa_housing", lambda: np.zeros(5000))
    for name, there, words in [("mnist", True, "60 + 10 pictures"), ("usa_housing", False, "5,000 rows")]:
        monkeypatch.setattr(datasets, "is_cached", lambda name, there=there: there)
        assert main(["data", name]) == 0
        out = capsys.readouterr().out
        assert out == f"{name}: {words}, verified, {'was' if there else 'now'} in {tmp_path}\n"


def test_data_that_cannot_be_had_is_explained_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "ATTEMPTS", 1)
    monkeypatch.setattr(datasets, "_transfer", lambda address, part: (_ for _ in ()).throw(OSError("no network")))
    assert "could not be downloaded" in failed(capsys, "data", "mnist")


def test_train_finds_every_script(monkeypatch, capsys):
    runs = training_runs()
    assert {"mnist_mlp", "usa_housing_mlp", "mnist_cnn", "cifar10_cnn", "shakespeare_small", "shakespeare"} <= set(runs)
    assert {script.parent.name[:2] for script, _ in runs.values()} == {"05", "06", "07"}
    assert "several" in failed(capsys, "train", "mnist") and "no training" in failed(capsys, "train", "bert")


def test_train_passes_its_arguments_on(tmp_path, monkeypatch):
    """A script of a chapter that only writes down how it was called."""
    chapter = tmp_path / "06_CNN"
    chapter.mkdir()
    (chapter / "train.py").write_text(
        "import pathlib, sys\nRUNS = {'toy': (None, 'toy_net', 1)}\n"
        "if __name__ == '__main__':\n    pathlib.Path(__file__).with_name('called').write_text(repr(sys.argv[1:]))\n")
    monkeypatch.setattr(shared, "CHAPTER_FOLDERS", [chapter])
    monkeypatch.setattr(sys, "argv", ["untouched"])
    assert main(["train", "toy_net", "--epochs", "2", "--fresh", "--help"]) == 0
    assert (chapter / "called").read_text() == repr(["toy", "--epochs", "2", "--fresh", "--help"])


def test_train_without_the_scripts_says_so(monkeypatch, capsys):
    monkeypatch.setattr(shared, "CHAPTER_FOLDERS", [])
    assert "not part of an installed package" in failed(capsys, "train", "mnist_cnn")


@pytest.mark.parametrize(("name", "command"), [
    ("PIL", ["classify", "x.png"]), ("onnx", ["export", "mnist_cnn", "--format", "onnx"]), ("fastapi", ["serve"])])
def test_a_missing_package_is_named_with_what_to_install(name, command, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "shared.service", raising=False)
    monkeypatch.delattr(shared, "service", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    line = failed(capsys, *command)
    assert "deep-learning-from-numpy[deploy]" in line and {"PIL": "Pillow"}.get(name, name) in line


@pytest.mark.parametrize(("arguments", "host", "names"), [
    ([], "127.0.0.1", {"127.0.0.1", "localhost", "::1"}),
    (["--host", "Box.example"], "Box.example", {"127.0.0.1", "localhost", "::1", "box.example"}),
    (["--host", "0.0.0.0"], "0.0.0.0", set()), (["--host", "::"], "::", set())])
def test_serve_passes_on_what_it_is_told(arguments, host, names, monkeypatch, capsys):
    """And answers to its own names alone, unless it is told to serve every address."""
    service, called = pytest.importorskip("shared.service", reason="needs FastAPI and uvicorn"), []

    def serve(host, port, workers, settings, announce):
        called.append((host, port, workers, settings))
        announce("http://there")

    monkeypatch.setattr(service, "serve", serve)
    numbers = ["--port", "81", "--workers", "3", "--threads", "5", "--places", "7", "--seconds", "9.5"]
    assert main(["serve", *arguments, *numbers, "--model", "shakespeare_small"]) == 0
    [(given, port, workers, settings)] = called
    assert (given, port, workers) == (host, 81, 3) and set(settings.hosts) == names
    assert (settings.model, settings.threads, settings.places, settings.seconds) == ("shakespeare_small", 5, 7, 9.5)
    assert capsys.readouterr().out == "serving at http://there (Ctrl-C stops)\n"


def test_an_address_in_use_is_explained(capsys):
    pytest.importorskip("fastapi", reason="needs FastAPI")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = failed(capsys, "serve", "--port", taken.getsockname()[1])
    assert "in use" in line.lower()


# ---- as a process: signals, pipes, encodings ----


def program(*arguments, **options):
    """Start the program as a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "shared", *arguments], **options)


def test_a_reader_that_has_seen_enough_is_no_failure():
    process = program("generate", "--tokens", "100000", "--model", "shakespeare_small")
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=120) == 0
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX's")
def test_an_interruption_ends_with_130_and_one_line():
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background a child would not
    process = program("generate", "--tokens", "100000", "--model", "shakespeare_small", preexec_fn=hears)
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == b"python -m shared: interrupted\n"


def test_a_text_comes_piece_by_piece():
    """The first characters arrive long before the last one is made."""
    with program("generate", "--tokens", "100000", "--model", "shakespeare_small") as process:
        assert len(process.stdout.read(5)) == 5 and process.poll() is None
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no UTF-8 are Linux's")
def test_a_file_name_that_no_terminal_can_show(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    process = program("classify", name, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err.count(b"\n") == 1 and b"\\udcff.png" in err


def test_the_module_that_starts_it_is_thin():
    code = Path(shared.__file__).with_name("__main__.py").read_text().splitlines()
    assert len(code) < 10
