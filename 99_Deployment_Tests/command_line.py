"""The program `python -m shared`: classify pictures, write text, train, export, fetch data, and serve.

It runs with NumPy alone as far as that goes: what needs Pillow, onnx or FastAPI loads it when it is asked for, and names
what to install where it is missing. It ends with 0, with 1 and one line of explanation where something failed, with 2 where
the command itself was wrong, and with 130 when it was interrupted.
"""

import argparse
import os
import runpy
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

import shared
from shared import datasets
from shared.deployment import classify, export_onnx, export_safetensors, load_model, read_picture
from shared.models import DIGIT_MODEL, PHOTO_MODEL, Failure, default_text_model, described_models, prompt_ids
from shared.transformers import generate

__all__ = ["main", "training_runs"]

EXTRA = 'pip install "deep-learning-from-numpy[deploy]"'
DATA = ("mnist", "cifar10", "tinyshakespeare", "usa_housing")


# ---- the commands ----


def classify_command(options):
    """Print the likeliest classes of each picture. A picture that cannot be read does not keep the others from it."""
    load, failed = cache(load_model), False
    for place in options.pictures:
        try:
            picture = read_picture(sys.stdin.buffer.read() if place == "-" else place)
        except (OSError, ValueError) as error:
            complain(f"{place}: {reason(error)}")
            failed = True
            continue
        stored = load(options.model or (PHOTO_MODEL if is_coloured(picture) else DIGIT_MODEL))
        p = classify(stored, [picture])[0]
        best = np.argsort(-p, kind="stable")[: options.top]
        print(f"{place}: " + ", ".join(f"{stored.classes[i]} {p[i]:.1%}" for i in best))
    return int(failed)


def is_coloured(picture):
    """Whether a picture (H, W, 3) is a colour photograph rather than something drawn: its channels differ by 8 of 255."""
    return float((picture.max(2) - picture.min(2)).mean()) > 8


def generate_command(options):
    """Write a text as it is made."""
    stored = load_model(default_text_model(options.model))
    ids = prompt_ids(stored, options.prompt)
    new = generate(stored.model, ids, options.tokens, temperature=options.temperature, top_k=options.top_k,
                   top_p=options.top_p, seed=np.random.default_rng(options.seed), stream=True)
    last = options.prompt
    print(options.prompt.removeprefix("\n"), end="", flush=True)
    for last in stored.tokenizer.decode_each(new):
        print(last, end="", flush=True)
    if not last.endswith("\n"):
        print()


def training_runs():
    """What the chapters can train: a table from a stored model's name to (script, what the script calls it)."""
    runs = {}
    for folder in shared.CHAPTER_FOLDERS:
        script = folder / "train.py"
        if script.is_file():
            for data, (_, name, _) in runpy.run_path(str(script), run_name="train")["RUNS"].items():
                runs[name] = (script, data)
    return runs


def train_command(options):
    """Run the training script of the chapter that trains the model."""
    runs = training_runs()
    if not runs:
        raise Failure("the training scripts are not part of an installed package: get the course itself and train there")
    wanted = [name for name, (_, data) in runs.items() if options.name in (name, data)]
    if len(wanted) != 1:
        raise Failure(f"{options.name!r} is {'several trainings' if wanted else 'no training'}; name one of {', '.join(runs)}")
    script, data = runs[wanted[0]]
    sys.argv = [str(script), data, *options.arguments]
    runpy.run_path(str(script), run_name="__main__")


def export_command(options):
    """Write a stored model in another format."""
    write = {"onnx": export_onnx, "safetensors": export_safetensors}[options.format]
    out = options.out or Path(f"{options.name}.{options.format}")
    write(load_model(options.name), out)
    print(f"{out}: {out.stat().st_size:,} bytes")


def data_command(options):
    """Fetch a full data set, unless it is there, and verify it."""
    if not options.name:
        for name in DATA:
            print(f"{name:16s} {'in the cache' if datasets.is_cached(name) else 'not fetched yet'}")
        print(f"the cache: {datasets.cache_folder()}")
        return
    there = datasets.is_cached(options.name)
    loaded = getattr(datasets, options.name)()
    size = f"{len(loaded.x_train):,} + {len(loaded.x_test):,} pictures" if isinstance(loaded, tuple) else \
        f"{len(loaded):,} {'characters' if isinstance(loaded, str) else 'rows'}"
    print(f"{options.name}: {size}, verified, {'was' if there else 'now'} in {datasets.cache_folder()}")


def models_command(options):
    """List what is stored, with the figure that it reached."""
    for name, record, size in described_models():
        figure = ", ".join(f"{key} {value}" for key, value in record.get("figure", {}).items())
        print(f"{name:18s} {size / 1e6:6.1f} MB   {figure}")


def serve_command(options):
    """Serve until stopped."""
    try:
        from shared.service import Settings, serve
    except ModuleNotFoundError as error:
        raise Failure(f"serve needs the package {error.name}: {EXTRA}") from error
    hosts = () if options.host in ("0.0.0.0", "::") else tuple({"127.0.0.1", "localhost", "::1", options.host.lower()})
    settings = Settings(default_text_model(options.model), options.threads, options.places, options.seconds, hosts)
    serve(options.host, options.port, options.workers, settings,
          announce=lambda address: print(f"serving at {address} (Ctrl-C stops)", flush=True))


# ---- the command line ----


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help says more)\n")


def number(kind, least, most, what):
    """A type for argparse: a number of a kind from `least` to `most`."""
    def read(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {what}, got {text}")
        return value

    read.__name__ = kind.__name__
    return read


def build_parser():
    """The parser, with a parser for each command."""
    parser = Parser(
        prog="python -m shared", description="Deep learning from NumPy: use the models that the course has trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m shared classify seven.png\n  python -m shared generate --prompt 'ROMEO:'\n"
               "  python -m shared serve\n\npython -m shared COMMAND --help shows more of each.")
    parser.add_argument("--version", action="version", version=f"deep-learning-from-numpy {shared.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name, run, text, examples):
        lines = "\n".join(f"  python -m shared {name} {example}".rstrip() for example in examples)
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"examples:\n{lines}",
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        added.set_defaults(run=run)
        return added.add_argument

    positive = partial(number, int, 1)
    add = command("classify", classify_command, "say what pictures show",
                  ["seven.png", "cat.jpg ship.jpg --top 5", "scan.png --model mnist_mlp", "- < seven.png"])
    add("pictures", nargs="+", metavar="PICTURE", help="a PNG or JPEG file of any size; - reads the standard input")
    add("--model", help=f"default: {PHOTO_MODEL} for pictures in colour, {DIGIT_MODEL} for all others, as digits")
    add("--top", type=positive(10, "a number from 1 to 10"), default=3, help="how many classes to name (3)")

    add = command("generate", generate_command, "continue a text, as it is written",
                  ["--prompt 'ROMEO:'", "--temperature 0.5 --tokens 1000 --seed 1", "--top-k 5 --model shakespeare_small"])
    add("--prompt", default="\n", help="what to continue (the start of a line)")
    add("--tokens", type=positive(10**6, "a number from 1"), default=500, help="how many to add (500)")
    add("--temperature", type=number(float, 0, 100, "a number from 0"), default=0.8,
        help="0 always takes the likeliest, 1 draws as the model says (0.8)")
    add("--top-k", type=positive(10**6, "a number from 1"), help="draw among the K likeliest only")
    add("--top-p", type=number(float, 1e-9, 1, "a number above 0, at most 1"),
        help="draw among the fewest that have this probability together")
    add("--seed", type=number(int, 0, 2**63, "a number from 0"),
        help="the same seed writes the same text; default: another one each time")
    add("--model", help="default: shakespeare where that is stored, else shakespeare_small")

    add = command("train", train_command, "train a stored model anew, as its chapter does",
                  ["usa_housing_mlp", "mnist_cnn --epochs 2 --out /tmp/weights", "shakespeare_small --fresh"])
    add("name", metavar="NAME", help="the model, as `models` lists it")
    add("arguments", nargs=argparse.REMAINDER, help="passed on to the chapter's train.py; NAME --help shows them")

    add = command("export", export_command, "write a stored model in a format that others read",
                  ["mnist_cnn --format onnx", "shakespeare_small --format safetensors --out gpt.safetensors"])
    add("name", metavar="NAME", help="the model, as `models` lists it")
    add("--format", required=True, choices=["onnx", "safetensors"])
    add("--out", type=Path, metavar="FILE", help="default: NAME.FORMAT here")

    add = command("data", data_command, "fetch and verify a full data set, or say which are there", ["", "mnist"])
    add("name", nargs="?", choices=DATA, metavar="NAME", help=", ".join(DATA))

    command("models", models_command, "list the stored models with the figures they reached", [""])

    add = command("serve", serve_command, "serve the models over HTTP, with a page to try them",
                  ["", "--port 8080 --workers 2", "--host 0.0.0.0"])
    add("--host", default="127.0.0.1", help="the address to bind to; other machines reach 0.0.0.0 (127.0.0.1)")
    add("--port", type=number(int, 0, 65535, "a number from 0 to 65535"), default=8000, help="0 takes a free one (8000)")
    add("--workers", type=positive(64, "a number from 1 to 64"), default=1,
        help="processes; with several, one that dies is started anew (1)")
    add("--threads", type=positive(64, "a number from 1 to 64"), default=2, help="that compute, in each process (2)")
    add("--places", type=positive(10_000, "a number from 1 to 10000"), default=64,
        help="requests at work or waiting, in each process, before the next is told to come again (64)")
    add("--seconds", type=number(float, 0.1, 3600, "a number from 0.1 to 3600"), default=30, help="for one request (30)")
    add("--model", help="the model of text; default: shakespeare where that is stored, else shakespeare_small")
    return parser


def reason(error):
    """An error's message in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def complain(text):
    """One line on the standard error stream."""
    print(f"python -m shared: {text}", file=sys.stderr)


def main(arguments=None):
    """Run a command, by default that of the process's own command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what a terminal cannot show
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        return 0
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except ImportError as error:
        complain(f"{reason(error)} (all that the program may need: {EXTRA})")
        return 1
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        complain(reason(error))
        return 1
