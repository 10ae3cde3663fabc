"""The data: what is embedded is right, and whatever happens on the network, nothing wrong enters the cache."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import re
import string
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shared import datasets
from shared.datasets import CorruptDataset, DatasetUnavailable, ImageData

TEXT = "".join(np.random.default_rng(0).choice(list(string.ascii_letters), 300_000))
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
ROOT = Path(datasets.__file__).resolve().parent.parent


# ---- a server with faults; each takes the request and what it asks for, the bytes from `start` on ----


def whole(request, content, start):
    request.begin(206 if start else 200, len(content) - start, f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.wfile.write(content[start:])


def whole_in_pieces(request, content, start):
    request.begin(200, len(content))
    for i in range(0, len(content), 30_000):
        request.wfile.write(content[i : i + 30_000])
        request.wfile.flush()
        time.sleep(0.1)


def ignores_ranges(request, content, start):
    whole(request, content, 0)


def truncates(request, content, start):
    request.begin(206 if start else 200, len(content) - start, f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.wfile.write(content[start : start + (len(content) - start) // 2])


def stalls(request, content, start):
    truncates(request, content, start)
    request.wfile.flush()
    request.server.released.wait(10)


def corrupts(request, content, start):
    wrong = bytearray(content)
    wrong[-1] ^= 1
    whole(request, bytes(wrong), start)


def resumes_elsewhere(request, content, start):
    request.begin(206, len(content), f"bytes 0-{len(content) - 1}/{len(content)}")
    request.wfile.write(content)


def hangs_up(request, content, start):
    """Closes the connection without a word."""


def talks_nonsense(request, content, start):
    request.wfile.write(b"This is not HTTP.\r\n\r\n")


def answers(code):
    def fault(request, content, start):
        request.begin(code, 5)
        request.wfile.write(b"sorry")

    fault.__name__ = f"answers_{code}"
    return fault


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` on loopback: one answer for each request from `plan`, then always `default`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.files, self.plan, self.default = {"/text": TEXT.encode()}, [], whole
        self.asked = []  # for each request its path and its Range
        self.released = threading.Event()

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        """A client that goes away is what these tests are about."""


class Request(http.server.BaseHTTPRequestHandler):
    def begin(self, code, length, content_range=None):
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        if code == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def do_GET(self):
        server, content = self.server, self.server.files[self.path]
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        answer = server.plan.pop(0) if server.plan else server.default
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if answer is whole and start >= len(content):
            answer = answers(416)
        answer(self, content, start)

    def log_message(self, *args):
        """Nothing on stderr."""


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that does not exist yet, and no patience with the network."""
    folder = tmp_path / "not yet there" / "cache"
    monkeypatch.setenv("COURSE_DATA", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets, "PAUSE", 0)
    monkeypatch.setattr(datasets, "TIMEOUT", 0.3)
    return folder


@pytest.fixture
def text(cache, server, monkeypatch):
    """The path of a text in the cache that `tinyshakespeare` is made to stand for, served by the local server."""
    serve_text(monkeypatch, server.address("/text"))
    return cache / "text.txt"


def serve_text(monkeypatch, *addresses):
    """Let `tinyshakespeare` be the text of these tests."""
    source = datasets._Source("text.txt", SHA256, addresses)
    read = partial(datasets._read_verified, reader=Path.read_text, sha256=SHA256)
    monkeypatch.setitem(datasets._FULL_SETS, "tinyshakespeare", datasets._FullSet("text.txt", read, (source,)))


def files_in(folder):
    """What a cache holds, without the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


FAULTS = [truncates, corrupts, stalls, hangs_up, talks_nonsense, answers(404), answers(500)]
by_name = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


# ---- downloads ----


def test_a_set_is_downloaded_once_with_a_progress_bar_on_stderr_only(text, server, capsys):
    assert not datasets.is_cached("tinyshakespeare")
    assert datasets.tinyshakespeare() == TEXT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "text.txt" in printed.err
    assert "100%" in printed.err
    assert files_in(text.parent) == {"text.txt"}
    assert datasets.is_cached("tinyshakespeare")

    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", None)]
    assert capsys.readouterr() == ("", "")


@by_name
def test_a_lasting_fault_raises_and_leaves_nothing_wrong_in_the_cache(fault, text, server):
    server.default = fault
    with pytest.raises(DatasetUnavailable) as caught:
        datasets.tinyshakespeare()
    assert not isinstance(caught.value, CorruptDataset)
    for wanted in (server.address("/text"), str(text), "by hand"):
        assert wanted in str(caught.value)
    assert files_in(text.parent) <= {"text.txt.part"}
    assert not datasets.is_cached("tinyshakespeare")
    assert len(server.asked) == (1 if fault.__name__ == "answers_404" else datasets.ATTEMPTS)

    server.default = whole
    assert datasets.tinyshakespeare() == TEXT
    assert files_in(text.parent) == {"text.txt"}


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.__name__ != "answers_404"], ids=lambda fault: fault.__name__)
def test_a_passing_fault_is_overcome(fault, text, server):
    server.plan = [fault]
    assert datasets.tinyshakespeare() == TEXT
    assert len(server.asked) == 2
    assert files_in(text.parent) == {"text.txt"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (truncates, "the connection ended after"),
        (corrupts, SHA256),
        (stalls, "timed out"),
        (answers(404), "HTTP 404"),
        (answers(500), "HTTP 500"),
        (hangs_up, "closed connection"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_message_tells_what_went_wrong(fault, reason, text, server):
    server.default = fault
    with pytest.raises(DatasetUnavailable, match=reason):
        datasets.tinyshakespeare()


def test_a_server_that_does_not_answer_raises(text, server, monkeypatch):
    closed = Server()
    closed.server_close()
    serve_text(monkeypatch, closed.address("/text"))
    with pytest.raises(DatasetUnavailable, match=re.escape(closed.address("/text"))):
        datasets.tinyshakespeare()


def test_a_download_resumes_where_it_stopped(text, server):
    server.default = truncates
    with pytest.raises(DatasetUnavailable):
        datasets.tinyshakespeare()
    arrived = text.with_name("text.txt.part").read_bytes()
    assert 0 < len(arrived) < len(TEXT)
    assert TEXT.encode().startswith(arrived)

    server.default = whole
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked[-1] == ("/text", f"bytes={len(arrived)}-")
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.asked]
    assert starts == sorted(set(starts))  # no byte was asked for twice


def begin_with(text, content):
    text.parent.mkdir(parents=True)
    text.with_name("text.txt.part").write_bytes(content)


def test_a_server_that_ignores_ranges_is_read_from_the_start(text, server):
    begin_with(text, TEXT[:100_000].encode())
    server.default = ignores_ranges
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", "bytes=100000-")]


def test_a_server_that_resumes_elsewhere_is_asked_for_the_whole(text, server):
    begin_with(text, TEXT[:100_000].encode())
    server.plan = [resumes_elsewhere]
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", "bytes=100000-"), ("/text", None)]


def test_a_part_that_is_already_whole_is_accepted(text, server):
    begin_with(text, TEXT.encode())
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", f"bytes={len(TEXT)}-")]


@pytest.mark.parametrize("wrong", [b"?" * 100_000, b"?" * len(TEXT), b"?" * 400_000], ids=["short", "full", "long"])
def test_a_wrong_part_is_thrown_away(wrong, text, server):
    begin_with(text, wrong)
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", f"bytes={len(wrong)}-"), ("/text", None)]


@pytest.mark.parametrize("fault", [answers(404), answers(500)], ids=lambda fault: fault.__name__)
def test_the_second_address_serves_where_the_first_does_not(fault, text, server, monkeypatch):
    server.files["/gone"] = b""
    serve_text(monkeypatch, server.address("/gone"), server.address("/text"))
    server.plan = [fault]
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/gone", None), ("/text", None)]


# ---- two at a time, and one that dies ----


def start_process(server):
    """Another process that loads the text and prints its length."""
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\n"
        "from shared import datasets\nfrom functools import partial\nfrom pathlib import Path\n"
        "read = partial(datasets._read_verified, reader=Path.read_text, sha256=sys.argv[3])\n"
        "source = datasets._Source('text.txt', sys.argv[3], (sys.argv[2],))\n"
        "datasets._FULL_SETS['tinyshakespeare'] = datasets._FullSet('text.txt', read, (source,))\n"
        "print(len(datasets.tinyshakespeare()))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), server.address("/text"), SHA256],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_processes_that_want_the_same_set_download_it_once(text, server):
    server.default = whole_in_pieces
    processes = [start_process(server) for _ in range(3)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert printed == [f"{len(TEXT)}\n"] * 3
    assert len(server.asked) == 1
    assert text.read_text() == TEXT


def test_what_a_killed_process_leaves_is_resumed(text, server):
    server.default = stalls
    part = text.with_name("text.txt.part")
    with start_process(server) as process:
        give_up = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size >= datasets.CHUNK):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.kill()
    arrived = part.stat().st_size
    server.default = whole
    assert datasets.tinyshakespeare() == TEXT
    assert server.asked == [("/text", None), ("/text", f"bytes={arrived}-")]


# ---- the cache ----


def test_the_cache_is_course_data_or_lies_beside_the_embedded_data(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert datasets.cache_folder() == tmp_path.resolve()
    monkeypatch.setenv("COURSE_DATA", "~")
    assert datasets.cache_folder() == Path.home().resolve()
    for unset in (partial(monkeypatch.setenv, "COURSE_DATA", ""), partial(monkeypatch.delenv, "COURSE_DATA")):
        unset()
        assert datasets.cache_folder() == ROOT / "shared" / "data" / "cache"


def test_is_cached_knows_the_names():
    with pytest.raises(ValueError, match=r"is_cached: no full data set is called 'minst', expected one of mnist, "):
        datasets.is_cached("minst")


def test_a_corrupt_cache_file_is_named_and_not_replaced(text, server):
    text.parent.mkdir(parents=True)
    wrong = TEXT[:-1]
    text.write_text(wrong)
    with pytest.raises(CorruptDataset, match=re.escape(str(text))):
        datasets.tinyshakespeare()
    assert text.read_text() == wrong
    assert server.asked == []


def test_a_cache_that_cannot_be_made_is_a_clear_error(tmp_path, text, server, monkeypatch):
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("COURSE_DATA", str(in_the_way / "cache"))
    with pytest.raises(DatasetUnavailable, match=rf"{re.escape(str(in_the_way))}(.|\n)*COURSE_DATA"):
        datasets.tinyshakespeare()
    assert server.asked == []


def test_a_cache_that_is_read_only_is_a_clear_error(text, server):
    text.parent.mkdir(parents=True)
    text.parent.chmod(0o500)
    try:
        if os.access(text.parent, os.W_OK):
            pytest.skip("this user may write to a read-only folder")
        with pytest.raises(DatasetUnavailable, match=rf"{re.escape(str(text.parent))}(.|\n)*COURSE_DATA"):
            datasets.tinyshakespeare()
    finally:
        text.parent.chmod(0o700)
    assert server.asked == []


def test_what_is_in_the_cache_is_read_without_writing_there(text, server):
    text.parent.mkdir(parents=True)
    text.write_text(TEXT)
    assert datasets.tinyshakespeare() == TEXT
    assert list(text.parent.iterdir()) == [text]
    assert server.asked == []


def test_what_cannot_be_read_is_not_called_damaged(text, server):
    text.mkdir(parents=True)
    with pytest.raises(DatasetUnavailable, match=rf"{re.escape(str(text))} cannot be read") as caught:
        datasets.tinyshakespeare()
    assert not isinstance(caught.value, CorruptDataset)


# ---- pictures: a small set in the form of MNIST, and one in the form of CIFAR-10 ----


def small_images(picture, train=40, test=20):
    rng = np.random.default_rng(1)
    return ImageData(
        rng.integers(0, 256, (train, *picture), dtype=np.uint8),
        np.arange(train, dtype=np.uint8) % 10,
        rng.integers(0, 256, (test, *picture), dtype=np.uint8),
        np.arange(test, dtype=np.uint8) % 10,
    )


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), compresslevel=1)


def digest(images):
    return hashlib.sha256(b"".join(array.tobytes() for array in images)).hexdigest()


def equal(images, others):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(images, others, strict=True))


@pytest.fixture
def small_mnist(cache, server, monkeypatch):
    images = small_images((28, 28))
    sources = []
    for source, array in zip(datasets._FULL_SETS["mnist"].sources, images, strict=True):
        server.files[f"/{source.name}"] = content = idx(array)
        sources.append(
            source._replace(sha256=hashlib.sha256(content).hexdigest(), addresses=(server.address(f"/{source.name}"),))
        )
    monkeypatch.setitem(
        datasets._FULL_SETS,
        "mnist",
        datasets._FULL_SETS["mnist"]._replace(
            read=partial(datasets._read_images, picture=(28, 28), train=40, test=20, sha256=digest(images)),
            sources=tuple(sources),
        ),
    )
    return images


@pytest.fixture
def small_cifar10(cache, server, monkeypatch):
    images = small_images((3, 32, 32), train=50, test=10)
    batches = {
        f"data_batch_{i + 1}": (images.x_train[10 * i : 10 * i + 10], images.y_train[10 * i : 10 * i + 10]) for i in range(5)
    }
    batches["test_batch"] = images.x_test, images.y_test
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, (x, y) in batches.items():
            content = pickle.dumps({b"data": x.reshape(-1, 3072), b"labels": y.tolist()}, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    server.files["/cifar-10-python.tar.gz"] = packed.getvalue()
    cifar10 = datasets._FULL_SETS["cifar10"]
    source = cifar10.sources[0]._replace(
        sha256=hashlib.sha256(packed.getvalue()).hexdigest(), addresses=(server.address("/cifar-10-python.tar.gz"),)
    )
    monkeypatch.setitem(
        datasets._FULL_SETS,
        "cifar10",
        cifar10._replace(read=partial(datasets._read_images, picture=(3, 32, 32), train=50, test=10), sources=(source,)),
    )
    return images


def test_mnist_is_made_of_its_four_files(small_mnist, server, cache):
    assert equal(datasets.mnist(), small_mnist)
    assert files_in(cache) == {"mnist.npz"}
    assert equal(datasets.mnist(), small_mnist)
    assert len(server.asked) == 4


def test_a_process_that_has_waited_for_another_does_not_start_again(small_mnist, server, cache):
    datasets.mnist()
    datasets._fill(cache / "mnist.npz", datasets._FULL_SETS["mnist"])  # it had looked before the other one was done
    assert len(server.asked) == 4


def test_a_changed_pixel_of_mnist_is_noticed(small_mnist, cache):
    cache.mkdir(parents=True)
    small_mnist.x_test[3, 14, 14] ^= 1
    np.savez(cache / "mnist.npz", **small_mnist._asdict())
    with pytest.raises(CorruptDataset, match=r"mnist\.npz"):
        datasets.mnist()


def test_mnist_resumes_with_the_file_that_failed(small_mnist, server, cache):
    server.plan = [whole, whole, *[answers(500)] * datasets.ATTEMPTS]
    with pytest.raises(DatasetUnavailable, match="t10k-images"):
        datasets.mnist()
    assert "mnist.npz" not in files_in(cache)
    assert equal(datasets.mnist(), small_mnist)
    asked = [path for path, _ in server.asked]
    assert [asked.count(f"/{source.name}") for source in datasets._FULL_SETS["mnist"].sources] == [1, 1, 4, 1]


def test_cifar10_is_made_of_its_archive(small_cifar10, server, cache):
    assert equal(datasets.cifar10(), small_cifar10)
    assert files_in(cache) == {"cifar10.npz"}


def test_files_put_there_by_hand_are_used_and_stay(small_mnist, server, cache):
    cache.mkdir(parents=True)
    names = [source.name for source in datasets._FULL_SETS["mnist"].sources]
    for name in names[:3]:
        (cache / name).write_bytes(server.files[f"/{name}"])
    assert equal(datasets.mnist(), small_mnist)
    assert server.asked == [(f"/{names[3]}", None)]
    assert files_in(cache) == {"mnist.npz", *names[:3]}


def test_a_wrong_file_put_there_by_hand_is_named_and_not_replaced(small_mnist, server, cache):
    cache.mkdir(parents=True)
    wrong = cache / "train-labels-idx1-ubyte.gz"
    wrong.write_bytes(b"<html>Sign in to the network</html>")
    with pytest.raises(CorruptDataset, match=re.escape(str(wrong))):
        datasets.mnist()
    assert wrong.read_bytes().startswith(b"<html>")
    assert "mnist.npz" not in files_in(cache)


def test_any_damage_to_a_cached_npz_is_noticed(small_mnist, cache):
    """Whatever byte is changed and wherever the file is cut: the right pictures, or a CorruptDataset."""
    datasets.mnist()
    path = cache / "mnist.npz"
    content = path.read_bytes()
    rng = np.random.default_rng(2)
    cuts = [content[:n] for n in (0, 1, 100, len(content) // 2, len(content) - 1)]
    flips = []
    headers = range(len(content) - 400, len(content))  # the table of contents, where a zip file breaks in most ways
    for i in [*range(200), *headers, *rng.integers(0, len(content), 100)]:
        flips.append(bytearray(content))
        flips[-1][i] ^= 1 << rng.integers(8)
    noticed = []
    for damaged in [*cuts, *flips, b"hello" * 100]:
        path.write_bytes(damaged)
        try:
            images = datasets.mnist()
        except CorruptDataset as error:
            noticed.append(str(error))
        else:
            assert equal(images, small_mnist)  # a date, a comment: a byte that does not matter
        assert path.read_bytes() == damaged
    assert all(str(path) in message for message in noticed)
    assert len(noticed) > len(cuts) + len(flips) // 2


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": np.zeros((40, 32, 32, 3), np.uint8)},
        {"x_test": np.zeros((10, 3, 32, 32), np.float32)},
        {"y_train": np.zeros(50, np.uint8)},
        {"y_test": np.arange(10)},
        {"y_test": np.arange(1, 11, dtype=np.uint8)},
        {"y_test": np.array([None] * 10)},
        {"y_test": None},
    ],
    ids=["shape", "float", "one class", "wide labels", "eleventh class", "objects", "missing"],
)
def test_wrong_content_of_a_cached_npz_is_noticed(change, small_cifar10, cache):
    cache.mkdir(parents=True)
    arrays = {name: array for name, array in (small_cifar10._asdict() | change).items() if array is not None}
    np.savez(cache / "cifar10.npz", **arrays)
    with pytest.raises(CorruptDataset, match=r"cifar10\.npz"):
        datasets.cifar10()


def test_another_order_of_cifar10_is_welcome(small_cifar10, server, cache):
    cache.mkdir(parents=True)
    order = np.random.default_rng(3).permutation(50)
    shuffled = small_cifar10._replace(x_train=small_cifar10.x_train[order], y_train=small_cifar10.y_train[order])
    np.savez(cache / "cifar10.npz", **shuffled._asdict())
    assert equal(datasets.cifar10(), shuffled)
    assert server.asked == []


# ---- what is embedded ----


def test_the_readme_names_every_data_file_with_its_checksum():
    readme = (datasets.DATA_FOLDER / "README.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `([\w.]+)` \| `\w+\(\)` \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    computed = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in datasets.DATA_FOLDER.iterdir()
        if path.is_file() and path.suffix not in (".md", ".py", ".pyc")
    }
    assert stated == computed
    for full_set in datasets._FULL_SETS.values():
        for source in full_set.sources:
            (row,) = (line for line in readme.splitlines() if f"`{source.sha256}`" in line)
            assert f"`{source.name}`" in row


def test_every_download_has_an_encrypted_address_and_a_checksum():
    for full_set in datasets._FULL_SETS.values():
        assert full_set.unpack or [source.name for source in full_set.sources] == [full_set.file]
        for source in full_set.sources:
            assert re.fullmatch("[0-9a-f]{64}", source.sha256)
            assert source.addresses
            assert all(address.startswith("https://") for address in source.addresses)


@pytest.fixture
def no_network(cache, monkeypatch):
    def refuse(*args):
        raise AssertionError("embedded data must not use the network")

    monkeypatch.setattr(datasets, "_fill", refuse)


def test_embedded_mnist(no_network):
    images = datasets.mnist_embedded()
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        assert x.shape == (10_000, 28, 28)
        assert x.dtype == y.dtype == np.uint8
        assert x.max() == 255
        counts = np.bincount(y)
        assert len(counts) == 10
        assert counts.min() > 800
    assert images.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as in the first figure of many a book
    assert images.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    means = np.stack([images.x_train[images.y_train == k].mean(axis=0) for k in range(10)]).reshape(10, -1)
    nearest = ((images.x_test[:1000].reshape(-1, 1, 784) - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == images.y_test[:1000]).mean() > 0.7  # pictures and labels belong together
    assert (datasets.DATA_FOLDER / "mnist_embedded.npz").stat().st_size < 3.5e6


def test_ames_housing(no_network):
    table = datasets.ames_housing()
    x, y = table.drop(columns="Sale_Price"), table["Sale_Price"]
    assert len(table) >= 2000
    assert x.shape[1] >= 8
    assert all(kind in "if" for kind in (dtype.kind for dtype in table.dtypes))
    assert table.notna().all(axis=None)
    assert (table.nunique() > 1).all()
    assert table["Gr_Liv_Area"].max() <= 4000
    assert set(table["Overall_Cond"]) <= set(range(1, 11))
    z = np.column_stack([np.ones(len(x)), (x - x.mean()) / x.std()])
    residuals = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
    assert 1 - residuals.var() / y.var() > 0.8  # the columns are worth predicting with


def test_drama(no_network):
    play = datasets.drama()
    assert len(play) >= 60_000
    assert "\r" not in play
    assert all(character.isprintable() or character == "\n" for character in play)


# ---- the full sets, where they are at hand ----


def full(name):
    if not datasets.is_cached(name):
        pytest.skip(f"{name} is not in the cache; COURSE_DATA can name a folder that has it")
    return getattr(datasets, name)()


def test_full_mnist():
    images = full("mnist")
    embedded = datasets.mnist_embedded()
    assert np.array_equal(images.x_train[:10_000], embedded.x_train)
    assert np.array_equal(images.y_train[:10_000], embedded.y_train)
    assert np.array_equal(images.x_test, embedded.x_test)
    assert np.array_equal(images.y_test, embedded.y_test)
    assert images.x_train.shape == (60_000, 28, 28)


def test_full_cifar10():
    images = full("cifar10")
    assert images.x_train.shape == (50_000, 3, 32, 32)
    assert np.bincount(images.y_test).tolist() == [1000] * 10
    sky, frog = (images.x_train[images.y_train == k].mean(axis=(0, 2, 3)) for k in (0, 6))
    assert sky[2] > sky[0]  # aeroplanes are bluer than red, frogs are not: the channels are red, green, blue
    assert frog[2] < frog[0]


def test_full_tinyshakespeare():
    play = full("tinyshakespeare")
    assert len(play) == 1_115_394
    assert play.startswith("First Citizen:\n")


def test_full_usa_housing():
    table = full("usa_housing")
    assert table.shape == (5000, 7)
    assert list(table.columns[-2:]) == ["Price", "Address"]
    assert table.notna().all(axis=None)


# ---- the import ----


def test_importing_brings_nothing_slow():
    slow = "{'pandas', 'tqdm', 'urllib.request', 'ssl', 'tarfile', 'matplotlib'}"
    code = f"import sys, numpy; sys.path.insert(0, sys.argv[1]); import shared.datasets; print(*{slow} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"
