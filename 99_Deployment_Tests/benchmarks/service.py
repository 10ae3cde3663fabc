"""How the service stands a crowd: many clients at once against `python -m shared serve` on this machine.

    python 99_Deployment_Tests/benchmarks/service.py                            50 clients for 60 seconds
    python 99_Deployment_Tests/benchmarks/service.py --clients 10 --seconds 5 --workers 1

Each client sends one request after the other, as fast as it is answered: mostly digits, some photographs, some short texts.
Printed are the number of requests and of errors, percentiles of the time to the whole answer, and the memory of the workers
after each tenth of the time: a leak climbs to the end, while buffers that grow with the crowd level off. The clients run on
the same cores as the service.
"""

import argparse
import http.client
import io
import json
import random
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import numpy as np
from PIL import Image

from shared import datasets

MIX = {"digit": 0.7, "photo": 0.15, "generate": 0.15}  # of the requests


@contextmanager
def running_service(*arguments, patience=120):
    """A service in processes of its own, on a free port: yields (the supervisor, the port) when a worker has its models."""
    command = [sys.executable, "-m", "shared", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        announced = process.stdout.readline()
        if not announced:
            raise RuntimeError(f"the service did not start: {process.stderr.read()}")
        port, until = int(re.search(r":(\d+) ", announced)[1]), monotonic() + patience
        while not is_ready(port):
            if monotonic() > until:
                raise RuntimeError(f"the service was not ready within {patience} seconds")
            sleep(0.02)
        yield process, port
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=patience)


def is_ready(port):
    """Whether a service answers there, with its models loaded."""
    try:
        return ask(port, "GET", "/ready")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def ask(port, method, path, body=None, kind="application/json", timeout=300):
    """One request on a connection of its own: (status, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def workers(supervisor):
    """The process numbers of a supervisor's workers (Linux)."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def resident(process):
    """The resident memory of a process in MB (Linux)."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024


def png(picture):
    """A picture (H, W) or (H, W, 3) as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def requests():
    """Requests of each kind, to draw from: (path, body, content type)."""
    digits, generator = datasets.mnist_embedded(), np.random.default_rng(0)
    photos = [generator.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(20)]
    return {
        "digit": [("/api/digit", png(255 - picture), "image/png") for picture in digits.x_test[:100]],
        "photo": [("/api/photo", png(photo), "image/png") for photo in photos],
        "generate": [("/api/generate", json.dumps({"prompt": "ROMEO:\n", "tokens": 20, "seed": seed}), "application/json")
                     for seed in range(100)],
    }


def crowd(port, clients, seconds, on_tick=lambda share: None):
    """Let so many clients ask for so many seconds: a table from kinds to lists of (seconds, problem or None)."""
    prepared, results, until = requests(), defaultdict(list), monotonic() + seconds

    def client(seed):
        choose = random.Random(seed)
        while monotonic() < until:
            kind = choose.choices(list(MIX), list(MIX.values()))[0]
            start, problem = monotonic(), None
            try:
                status, body = ask(port, "POST", *choose.choice(prepared[kind]))
                whole = kind != "generate" or body.endswith(b'{"event":"end","reason":"length"}\n')
                problem = None if status == 200 and whole else f"status {status}: {body[-80:]!r}"
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
            results[kind].append((monotonic() - start, problem))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    begin = monotonic()
    for thread in threads:
        thread.start()
    while monotonic() < until:
        on_tick((monotonic() - begin) / seconds)
        sleep(min(0.2, max(0.01, until - monotonic())))
    for thread in threads:
        thread.join()
    return dict(results)


def table(results, seconds):
    """The results as lines of text."""
    yield f"{'':10s}{'requests':>10s}{'errors':>8s}{'per second':>12s}{'median':>9s}{'90 %':>9s}{'99 %':>9s}{'worst':>9s}"
    for kind, answers in sorted(results.items()):
        times = np.array([time for time, _ in answers])
        marks = [*np.percentile(times, [50, 90, 99], method="inverted_cdf"), times.max()]
        errors = sum(problem is not None for _, problem in answers)
        yield (f"{kind:10s}{len(answers):10,d}{errors:8,d}{len(answers) / seconds:12.1f}"
               + "".join(f"{1000 * mark:6.0f} ms" for mark in marks))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with running_service("--workers", options.workers) as (supervisor, port):
        memory = []

        def measure(share):
            if share * 10 >= len(memory) + 1:
                memory.append([resident(worker) for worker in workers(supervisor.pid)])

        results = crowd(port, options.clients, options.seconds, measure)
        memory.append([resident(worker) for worker in workers(supervisor.pid)])
    print(f"{options.clients} clients, {options.workers} workers, {options.seconds:g} seconds")
    print(*table(results, options.seconds), sep="\n")
    for problem in sorted({problem for answers in results.values() for _, problem in answers if problem}):
        print("   ", problem)
    for number, sizes in enumerate(zip(*memory, strict=False), 1):
        print(f"memory of worker {number} in MB, tenth by tenth: {' '.join(f'{size:.0f}' for size in sizes)}")


if __name__ == "__main__":
    main()
