"""The course's data: a small part embedded, the full sets fetched once and kept in a cache.

Embedded in ``shared/data``, never any network: `mnist_embedded`, `ames_housing`, `drama`.

The full sets, `mnist`, `cifar10`, `tinyshakespeare` and `usa_housing`, are looked for in the cache: the folder that the
environment variable ``COURSE_DATA`` names, else ``shared/data/cache``. What is not there is downloaded once from the
set's public address. A download is resumed where it broke off, compared with a SHA-256 checksum, and takes its final
name only when it is whole. What cannot be had raises `DatasetUnavailable`, which says where to get the file by hand and
where to put it; a damaged file in the cache raises `CorruptDataset`, and is left for its owner to look at.

Sources, licences and checksums: ``shared/data/README.md``.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "CIFAR10_CLASSES",
    "CorruptDataset",
    "DatasetUnavailable",
    "ImageData",
    "ames_housing",
    "cache_folder",
    "cifar10",
    "drama",
    "is_cached",
    "mnist",
    "mnist_embedded",
    "tinyshakespeare",
    "usa_housing",
]

DATA_FOLDER = Path(__file__).resolve().parent / "data"
ATTEMPTS = 3  # rounds over the addresses of a file before giving up
PAUSE = 1.0  # seconds before the second round, twice that before the third
TIMEOUT = 15.0  # seconds to wait for a connection, and for each next piece of the file
CHUNK = 1 << 16  # bytes read at a time

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # classes 0 to 9


class DatasetUnavailable(RuntimeError):
    """A data set is neither in the cache nor to be had; the message says how to put it there by hand."""


class CorruptDataset(DatasetUnavailable):
    """A file in the cache is not what it should be; the message names it. It is never replaced silently."""


class ImageData(NamedTuple):
    """Pictures and labels, split as their authors split them; unsigned bytes throughout.

    x_train and x_test hold one picture a row, (N, 28, 28) for MNIST and (N, 3, 32, 32), red, green, blue, for CIFAR-10,
    values 0 to 255. y_train and y_test, (N,), hold the classes 0 to 9.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


# ---- embedded in the course ----


def mnist_embedded() -> ImageData:
    """A part of MNIST that needs no network: the first 10,000 training pictures and all 10,000 of the test set.

    The training pictures are those of `mnist()`, in the same order, with 863 to 1,127 of each digit.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
    """
    with np.load(DATA_FOLDER / "mnist_embedded.npz") as arrays:
        return ImageData(*(arrays[name] for name in ImageData._fields))


def ames_housing():
    """2,925 houses sold in Ames, Iowa, from 2006 to 2010: a pandas DataFrame of 26 numeric columns and `Sale_Price`.

    Prices in US dollars, areas in square feet, `Overall_Cond` from 1 (very poor) to 10 (very excellent).

    Source: De Cock (2011), Ames, Iowa: Alternative to the Boston Housing Data. How it was cleaned: the data's README.
    """
    return _read_csv(DATA_FOLDER / "ames_housing.csv")


def drama() -> str:
    """A short play in the Elizabethan manner, written for this course, to train language models on."""
    return (DATA_FOLDER / "drama.txt").read_text(encoding="utf-8")


# ---- the full sets ----


def mnist() -> ImageData:
    """MNIST: 60,000 handwritten digits to train on and 10,000 to test with, (N, 28, 28), ink 255 on paper 0.

    Raises DatasetUnavailable or CorruptDataset.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition.
    """
    return _full("mnist")


def cifar10() -> ImageData:
    """CIFAR-10: 50,000 small colour photographs to train on and 10,000 to test with, (N, 3, 32, 32), in ten classes.

    `CIFAR10_CLASSES` names the classes. A cached copy may have its pictures in another order than the original: shuffle
    before use.

    Raises DatasetUnavailable or CorruptDataset.

    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    return _full("cifar10")


def tinyshakespeare() -> str:
    """Passages from Shakespeare's plays, 1,115,394 characters of ASCII, as collected by Karpathy for char-rnn (2015).

    Raises DatasetUnavailable or CorruptDataset.
    """
    return _full("tinyshakespeare")


def usa_housing():
    """5,000 synthetic house prices: a pandas DataFrame with five numeric columns, `Price` (US dollars) and `Address`.

    Raises DatasetUnavailable or CorruptDataset.
    """
    return _full("usa_housing")


def cache_folder() -> Path:
    """The folder that holds the full sets: ``$COURSE_DATA`` where that is set, else ``shared/data/cache``."""
    chosen = os.environ.get("COURSE_DATA")
    return Path(chosen).expanduser().resolve() if chosen else DATA_FOLDER / "cache"


def is_cached(name: str) -> bool:
    """Whether a full set, by the name of its function such as "mnist", is in the cache, so that it needs no download.

    Raises ValueError for a name that is not a full set's.
    """
    if name not in _FULL_SETS:
        raise ValueError(f"is_cached: no full data set is called {name!r}, expected one of {', '.join(_FULL_SETS)}")
    return (cache_folder() / _FULL_SETS[name].file).is_file()


# ---- from a file to the data; pandas, tarfile and their like are imported where needed, for they load slowly ----


def _read_csv(path):
    import pandas

    return pandas.read_csv(path)


def _check_sha256(found, expected):
    if found != expected:
        raise ValueError(f"its SHA-256 is {found}, expected {expected}")


def _read_verified(path, reader, sha256):
    _check_sha256(_sha256(path), sha256)
    return reader(path)


def _read_images(path, picture, train, test, sha256=None):
    """An .npz of four arrays. Its bytes differ from writer to writer, so its content is checked, not the file."""
    with open(path, "rb") as file, np.load(file) as arrays:
        images = ImageData(*(arrays[name] for name in ImageData._fields))
    for split, count, x, y in (
        ("train", train, images.x_train, images.y_train),
        ("test", test, images.x_test, images.y_test),
    ):
        if x.shape != (count, *picture) or y.shape != (count,) or x.dtype != np.uint8 or y.dtype != np.uint8:
            raise ValueError(
                f"x_{split} {x.shape} {x.dtype} and y_{split} {y.shape} {y.dtype}, "
                f"expected {(count, *picture)} and {(count,)} of uint8"
            )
        counts = np.bincount(y)
        if sha256 is None and not np.array_equal(counts, np.full(10, count // 10)):
            raise ValueError(f"y_{split} holds {counts.tolist()} of the classes, expected {count // 10} of each of ten")
    if sha256 is not None:
        digest = hashlib.sha256()
        for array in images:
            digest.update(np.ascontiguousarray(array))
        _check_sha256(digest.hexdigest(), sha256)
    return images


def _read_idx(path):
    """A gzipped .idx file: two zeros, the type (8, bytes), the number of axes, the big-endian sizes, the bytes."""
    import gzip

    raw = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _unpack_mnist(files):
    return ImageData(*map(_read_idx, files))


def _unpack_cifar10(files):
    """Five training batches and a test batch, each a pickled dictionary that holds a picture a row."""
    import pickle
    import tarfile

    def split(*batches):
        read = [pickle.load(archive.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes") for name in batches]
        pictures = np.concatenate([batch[b"data"] for batch in read])
        return pictures.reshape(-1, 3, 32, 32), np.concatenate([batch[b"labels"] for batch in read]).astype(np.uint8)

    with tarfile.open(files[0]) as archive:
        return ImageData(*split(*(f"data_batch_{i}" for i in range(1, 6))), *split("test_batch"))


# ---- what there is, where it comes from, and how to know that it is right ----


class _Source(NamedTuple):
    """A file as its publishers serve it."""

    name: str
    sha256: str
    addresses: tuple[str, ...]


class _FullSet(NamedTuple):
    """A data set: its file in the cache, how to read it, what to download, and how to turn that into ImageData.

    Without `unpack`, the one file that is downloaded is the file in the cache.
    """

    file: str
    read: Callable
    sources: tuple[_Source, ...]
    unpack: Callable | None = None


def _idx(name, sha256):
    return _Source(
        name,
        sha256,
        (
            f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}",
            f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}",
        ),
    )


_SHAKESPEARE = _Source(
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
)
_USA_HOUSING = _Source(
    "usa_housing.csv",
    "e82882cdc7e74d4f5ac685f2bffbdb34a0e2fc07c0d5b3a576e0bc9a04af60dd",
    (
        "https://raw.githubusercontent.com/dagvie/SEIS-631-Final-project-/1964aeff2c9094daf41942b3260cebe61afc304b/"
        "USA_Housing.csv",
    ),
)

_FULL_SETS = {
    "mnist": _FullSet(
        "mnist.npz",
        partial(
            _read_images,
            picture=(28, 28),
            train=60_000,
            test=10_000,
            sha256="06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
        ),
        (
            _idx("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            _idx("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            _idx("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            _idx("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        _unpack_mnist,
    ),
    "cifar10": _FullSet(
        "cifar10.npz",
        partial(_read_images, picture=(3, 32, 32), train=50_000, test=10_000),  # no checksum: a JPEG copy may serve
        (
            _Source(
                "cifar-10-python.tar.gz",
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            ),
        ),
        _unpack_cifar10,
    ),
    "tinyshakespeare": _FullSet(
        "tinyshakespeare.txt",
        partial(_read_verified, reader=partial(Path.read_text, encoding="ascii"), sha256=_SHAKESPEARE.sha256),
        (_SHAKESPEARE,),
    ),
    "usa_housing": _FullSet(
        "usa_housing.csv", partial(_read_verified, reader=_read_csv, sha256=_USA_HOUSING.sha256), (_USA_HOUSING,)
    ),
}


# ---- from the network into the cache ----


def _full(name):
    """A full set from the cache, which is filled first where it has to be."""
    full_set = _FULL_SETS[name]
    path = cache_folder() / full_set.file
    if not path.exists():
        _fill(path, full_set)
    return _read(path, full_set)


def _read(path, full_set):
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DatasetUnavailable(f"{path} cannot be read: {error}") from error
    try:
        return full_set.read(path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # wrong bytes make NumPy, zipfile and pandas raise errors of a dozen kinds
        raise CorruptDataset(
            f"{path} is damaged or not the data set it is named after: {error}. "
            "Look at it, then delete it and call again to have it fetched afresh."
        ) from error


def _fill(path, full_set):
    """Download what the set consists of and put its file into the cache, in one step at the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(path.name + ".lock")):
            if path.exists():  # another process has fetched it while this one waited
                return
            by_hand = {source for source in full_set.sources if (path.parent / source.name).exists()}
            files = [_fetch(source, path.parent) for source in full_set.sources]
            if full_set.unpack:
                whole = path.with_name(path.name + ".part")
                with open(whole, "wb") as file:
                    np.savez(file, **full_set.unpack(files)._asdict())
                _read(whole, full_set)
                os.replace(whole, path)
                for source in full_set.sources:  # their content is in the cache now; what was put there by hand stays
                    if source not in by_hand:
                        (path.parent / source.name).unlink()
    except OSError as error:
        raise DatasetUnavailable(
            f"{path.name} is not in the cache folder {path.parent}, and nothing can be written there: {error}. "
            "Set the environment variable COURSE_DATA to a folder that you can write to."
        ) from error


@contextlib.contextmanager
def _lock(path):
    """Let one process in at a time. The system frees the lock when its holder ends, however that happens."""
    with open(path, "a+b") as file:
        while not _try_lock(file):
            time.sleep(0.1)
        yield  # closing the file frees the lock


def _try_lock(file):
    import errno

    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # a file system that has no locks is used without
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _fetch(source, folder):
    """The path of a source's file in a folder: the one that is there, if it is right, else it is downloaded."""
    from http.client import HTTPException
    from urllib.error import HTTPError

    target, part = folder / source.name, folder / (source.name + ".part")
    if target.exists():
        if _sha256(target) != source.sha256:
            raise CorruptDataset(
                f"{target} is damaged or incomplete: its SHA-256 is not {source.sha256}. "
                f"Delete it and call again, or put there what is served at {source.addresses[0]}."
            )
        return target

    addresses, reasons = list(source.addresses), {}
    for attempt in range(ATTEMPTS):
        if attempt and addresses:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        for address in addresses[:]:
            try:
                _transfer(address, part)
            except HTTPError as error:
                reasons[address] = f"HTTP {error.code} {error.reason}"
                error.close()
                if error.code < 500:  # the server says that asking again will not help
                    addresses.remove(address)
            except (OSError, HTTPException) as error:
                reasons[address] = str(error) or type(error).__name__
            else:
                if _sha256(part) == source.sha256:
                    os.replace(part, target)
                    return target
                part.unlink()  # nothing to resume: somewhere in it the bytes are wrong
                reasons[address] = f"what was sent does not have the SHA-256 {source.sha256}"

    tried = "\n".join(f"    {address}: {reason}" for address, reason in reasons.items())
    raise DatasetUnavailable(
        f"{source.name} could not be downloaded.\n{tried}\n"
        f"To put it there by hand, download it from one of these addresses and save it as\n"
        f"    {target}\nthen call again. A download that broke off is resumed."
    )


def _transfer(address, part):
    """Append to a partial file what it lacks, or write it anew where the server does not resume."""
    import urllib.request
    from urllib.error import HTTPError

    from tqdm import tqdm

    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "deep-learning-from-numpy", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise  # 416 says that the partial file lacks nothing: its checksum will tell
        error.close()
        return

    with response:
        if response.status != 206:
            start = 0
        total = None if response.length is None else start + response.length
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            arrived = file.tell()
    if total is not None and arrived != total:
        raise OSError(f"the connection ended after {arrived:,} of {total:,} bytes")


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
