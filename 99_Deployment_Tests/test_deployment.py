"""Chapter 99's module: stored models, pictures, ONNX and safetensors files, 8-bit weights, batching, latency."""

import io
import itertools
import json
import struct
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import CHAPTER_FOLDERS, datasets, deployment, plots
from shared.cnn import AvgPool2d, BatchNorm2d, Conv2d, Flatten, MaxPool2d, cifar10_pixels, mnist_pixels
from shared.deployment import (
    Batcher,
    PictureError,
    StoredModel,
    classify,
    dequantise,
    digit_pixels,
    export_onnx,
    export_safetensors,
    latency,
    load_model,
    photo_pixels,
    quantise,
    read_picture,
    stored_models,
)
from shared.tensor import Tensor, no_grad
from shared.tensor_mlp import GELU, Dropout, Linear, ReLU, Sequential, load, load_metadata
from shared.transformers import GPT, GPTConfig

Image = pytest.importorskip("PIL.Image")
NAMES = ["mnist_mlp", "usa_housing_mlp", "mnist_cnn", "cifar10_cnn", "shakespeare_small"]
CLASSIFIERS = ["mnist_mlp", "mnist_cnn", "cifar10_cnn"]


@pytest.fixture(scope="module")
def stored():
    """Every model that the chapters store."""
    return {name: load_model(name) for name in NAMES}


@pytest.fixture(scope="module")
def digits():
    """Some test digits as pictures (H, W, 3), bright on dark, and their labels."""
    data = datasets.mnist_embedded()
    return [digit[..., None].repeat(3, 2) for digit in data.x_test[:120]], data.y_test[:120]


def outputs(model, x):
    """What a model makes of an array, without a graph."""
    with no_grad():
        return model(Tensor(x) if x.dtype.kind == "f" else x).data


# --- stored models ----------------------------------------------------------------------------------------------------


def test_stored_models_are_those_with_weights_and_a_record():
    found = stored_models()
    assert set(NAMES) <= set(found)
    for name, path in found.items():
        assert path.name == f"{name}.safetensors" and path.exists() and path.with_suffix(".json").exists()
        assert path.parent.parent in CHAPTER_FOLDERS


def test_stored_models_are_found_inside_the_package_and_need_a_record(tmp_path, monkeypatch):
    """As in an installed wheel, where the chapters' checkpoints lie in the package's own folder."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("whole.safetensors", "whole.json", "alone.safetensors", "only.json"):
        (tmp_path / "checkpoints" / name).write_bytes(b"")
    monkeypatch.setattr("shared.__path__", [str(tmp_path / "missing"), str(tmp_path)])
    assert stored_models() == {"whole": tmp_path / "checkpoints" / "whole.safetensors"}


def test_load_model_names_what_it_knows():
    with pytest.raises(ValueError, match=r"no model 'mnist_rnn'; known are .*mnist_cnn.*mnist_mlp"):
        load_model("mnist_rnn")


def test_load_model_refuses_weights_that_nothing_says_how_to_build(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "stray.safetensors").write_bytes(b"")
    (tmp_path / "checkpoints" / "stray.json").write_text("{}")
    monkeypatch.setattr("shared.__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"'stray' has weights at .* but nothing says how it is built"):
        load_model("stray")


def test_every_stored_model_loads_in_evaluation_mode():
    for name in stored_models():
        each = load_model(name)
        assert not any(module.training for module in each.model.modules())
        assert each.name == name and "figure" in each.record
        weights = load(stored_models()[name])
        assert all(np.array_equal(value, weights[key]) for key, value in each.model.state_dict().items())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_prepares_pictures_for_its_own_input(stored, name):
    each = stored[name]
    x = each.prepare(np.full((40, 50, 3), 255, np.uint8))
    assert x.shape == (1, *each.shape) and x.dtype == np.float32
    assert len(each.classes) == outputs(each.model, x).shape[1] == 10
    assert each.tokenizer is None


def test_the_language_model_has_its_tokenizer(stored):
    each = stored["shakespeare_small"]
    assert each.tokenizer.vocab_size == each.model.config.vocab_size
    assert each.tokenizer.decode(each.tokenizer.encode("Speak, speak.")) == "Speak, speak."
    assert each.classes is None and each.prepare is None and each.shape is None


def test_the_house_price_network_is_a_line_plus_a_bend(stored):
    model, x = stored["usa_housing_mlp"].model, np.random.default_rng(0).standard_normal((4, 5), np.float32)
    assert np.allclose(outputs(model, x), outputs(model.line, x) + outputs(model.bend, x), atol=1e-6)


def test_the_digit_networks_reach_what_their_records_say(stored):
    data = datasets.mnist_embedded()
    guess = outputs(stored["mnist_mlp"].model, data.x_test.reshape(-1, 784) / np.float32(255)).argmax(1)
    assert abs(np.mean(guess == data.y_test) - stored["mnist_mlp"].record["figure"]["test_accuracy"]) < 3e-4


# --- pictures ---------------------------------------------------------------------------------------------------------


def encoded(image, kind="PNG", **options):
    """A Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient_picture(height=23, width=31):
    """A picture without symmetry, every pixel another colour."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows * 7 + columns * 3) % 256], -1).astype(np.uint8)


def test_read_picture_returns_the_pixels_of_a_png(tmp_path):
    pixels = gradient_picture()
    data = encoded(Image.fromarray(pixels))
    (tmp_path / "p.png").write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), tmp_path / "p.png", str(tmp_path / "p.png")):
        read = read_picture(source)
        assert read.dtype == np.uint8 and np.array_equal(read, pixels)
        read[0, 0] = 1  # it is the caller's own


def test_read_picture_of_a_jpeg_is_close():
    pixels = np.full((40, 56, 3), (200, 60, 20), np.uint8)
    pixels[:, 28:] = (20, 60, 200)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("CMYK")):
        read = read_picture(encoded(image, "JPEG", quality=95))
        assert read.shape == (40, 56, 3) and np.abs(read.astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA"])
def test_read_picture_takes_every_mode(mode):
    grey = np.where(gradient_picture()[..., :1] > 120, 255, 0).astype(np.uint8).repeat(3, 2)
    image = Image.fromarray(grey).convert("RGBA" if mode == "PA" else mode)
    image = image.quantize(4) if mode == "PA" else image
    assert np.array_equal(read_picture(encoded(image)), grey)


def test_read_picture_scales_sixteen_bits_of_grey():
    grey = (np.arange(48).reshape(6, 8) * 5).astype(np.uint16)
    read = read_picture(encoded(Image.fromarray(grey * 257)))
    assert np.array_equal(read, grey.astype(np.uint8)[..., None].repeat(3, 2))
    assert read_picture(encoded(Image.fromarray(grey * 0 + 65535))).min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    """Black everywhere; the left half cannot be seen through, the right half can."""
    rgba = np.zeros((10, 12, 4), np.uint8)
    rgba[:, :6, 3] = 255
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.fromarray(np.repeat([[0] * 6 + [1] * 6], 10, 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        data = encoded(image, transparency=1)
    else:
        data = encoded(image.convert(mode))
    read = read_picture(data)
    assert (read[:, :6] == 0).all() and (read[:, 6:] == 255).all()
    half = np.zeros((2, 2, 4), np.uint8)
    half[..., 3] = 128
    assert abs(int(read_picture(encoded(Image.fromarray(half)))[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize(("orientation", "turned"), [
    (1, lambda a: a), (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]),
    (5, lambda a: a.transpose(1, 0, 2)), (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
    (8, lambda a: np.rot90(a))])
def test_exif_turns_a_picture_upright(orientation, turned):
    pixels, exif = gradient_picture(), Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_picture(encoded(Image.fromarray(pixels), exif=exif)), turned(pixels))


def announced(width, height):
    """A PNG file that says it has so many pixels, and ends after its header."""
    header = b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)),
              struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(60_000, 60_000), (8_000, 6_251), (2**31 - 1, 2**31 - 1), (1, 60_000_000)])
def test_a_bomb_is_refused_before_it_is_decoded(size, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(PictureError, match=f"{size[0]} x {size[1]} pixels, at most 50,000,000"):
        read_picture(announced(*size))


def test_a_real_bomb_is_refused():
    """A picture whose file is a thousandth of its pixels."""
    data = encoded(Image.new("1", (3000, 3000)))
    assert len(data) < 3000 * 3000 / 1000
    with pytest.raises(PictureError, match="3000 x 3000 pixels, at most 8,999,999"):
        read_picture(data, max_pixels=8_999_999)


def test_the_limit_is_the_callers():
    data = encoded(Image.fromarray(gradient_picture(10, 10)))
    assert read_picture(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(PictureError, match="10 x 10 pixels, at most 99"):
        read_picture(data, max_pixels=99)


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(50), b"\x89PNG", b"BM" + bytes(60), b"<svg/>", bytes(100)])
def test_foreign_data_is_refused(data):
    with pytest.raises(PictureError, match="neither a PNG nor a JPEG"):
        read_picture(data)


def test_other_formats_of_pillow_are_refused():
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        with pytest.raises(PictureError, match="neither a PNG nor a JPEG"):
            read_picture(encoded(Image.fromarray(gradient_picture()), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_truncation_is_a_picture_error(kind):
    data = encoded(Image.fromarray(gradient_picture(40, 40)), kind)
    for length in [*range(0, 40), *range(40, len(data) - 30, 37)]:
        with pytest.raises(PictureError):
            read_picture(data[:length])


def mend_checksums(data):
    """Make the checksum of each chunk of a PNG file, a bytearray, right again, as far as the chunks can be followed."""
    start = 8
    while (end := start + 8 + int.from_bytes(data[start : start + 4], "big")) + 4 <= len(data):
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on EXIF data that make no sense
@settings(deadline=None, max_examples=150)
@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_a_picture_error_or_a_picture(which, changes):
    """Bytes changed anywhere; checksums of a PNG are mended, so that the damage gets as far as it can."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(gradient_picture())
    data = bytearray(encoded(image.convert(["RGB", "P", "RGBA", "L"][which]), exif=exif) if which < 3
                     else encoded(image, "JPEG", exif=exif))
    for place, byte in changes:
        data[place % len(data)] = byte
    if which < 3:
        mend_checksums(data)
    try:
        picture = read_picture(bytes(data))
    except PictureError:
        return
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_a_path_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "nothing.png")


# --- digits and photographs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "new"), [(11, 4), (280, 28), (5, 20), (7, 7), (1, 3), (33, 32)])
def test_area_weights_are_shares(size, new):
    weights = deployment._area_weights(size, new)
    assert weights.shape == (new, size) and np.allclose(weights.sum(1), 1) and (weights >= 0).all()
    assert np.allclose(weights.sum(0), new / size)  # no pixel counts more than another


def test_resizing_by_a_whole_factor_is_a_mean_of_blocks():
    picture = np.random.default_rng(0).random((12, 20, 3))
    assert np.allclose(deployment._resized(picture, 4, 5), picture.reshape(4, 3, 5, 4, 3).mean((1, 3)))


def test_a_digit_of_mnist_hardly_changes(digits):
    """But for a move by one pixel, and for what lies outside of the box: by its definition fainter than a tenth."""
    for picture in digits[0]:
        pixels, original = digit_pixels(picture)[0, 0], picture[..., 0] / 255
        moved = [np.roll(pixels, step, (0, 1)) for step in itertools.product((-1, 0, 1), repeat=2)]
        assert min(np.abs(each - original).max() for each in moved) <= 0.1
    assert digit_pixels(digits[0][0]).shape == (1, 1, 28, 28) and digit_pixels(digits[0][0]).dtype == np.float32


def on_sheet(digit, rng, *, factor=5, size=(230, 300), paper=250, ink=-0.9, light=None):
    """A digit (28, 28) drawn `factor` times as large, somewhere on a sheet of paper: (H, W, 3)."""
    sheet = np.full(size, float(paper))
    top, left = rng.integers(0, [n - 28 * factor for n in size])
    sheet[top : top + 28 * factor, left : left + 28 * factor] += ink * np.kron(digit, np.ones((factor, factor)))
    return np.clip(sheet * (1 if light is None else light), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


@pytest.mark.parametrize("sheet", [{}, {"paper": 5, "ink": 0.9}, {"factor": 2}, {"factor": 8}, {"ink": -0.4},
                                   {"light": np.linspace(0.6, 1, 300)}, {"light": np.linspace(0.7, 1, 230)[:, None]}],
                         ids=["dark on bright", "bright on dark", "small", "large", "pale", "lit from right", "lit from below"])
def test_size_place_paper_and_light_do_not_matter(stored, digits, sheet):
    """What is read off a sheet is what is read off the digit itself, nearly always."""
    rng, pictures = np.random.default_rng(0), digits[0][:60]
    read = classify(stored["mnist_mlp"], [on_sheet(picture[..., 0], rng, **sheet) for picture in pictures]).argmax(1)
    plain = classify(stored["mnist_mlp"], pictures).argmax(1)
    assert np.mean(read == plain) >= 0.95


def test_the_picture_and_its_negative_give_the_same(digits):
    for picture in digits[0][:20]:
        assert np.array_equal(digit_pixels(picture), digit_pixels(255 - picture))


@pytest.mark.parametrize("lying", [False, True])
def test_a_drawn_digit_is_centred_and_twenty_pixels_long(lying):
    """A bar, three times as long as wide, far from the middle, upright or lying."""
    picture = np.full((300, 200, 3), 255, np.uint8)
    picture[30:180, 10:60] = 0
    ink = digit_pixels(picture.transpose(1, 0, 2) if lying else picture)[0, 0]
    ink = ink.T if lying else ink
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 7) and ink.max() == 1
    assert abs((ink.sum(1) @ np.arange(28)) / ink.sum() - 14) <= 0.5 and abs((ink.sum(0) @ np.arange(28)) / ink.sum() - 14) <= 0.5


def test_the_thinnest_line_keeps_a_pixel():
    picture = np.full((300, 300, 3), 255, np.uint8)
    picture[20:280, 40] = 0  # 260 pixels long, one wide
    ink = digit_pixels(picture)[0, 0]
    assert (ink == 1).sum() == 20 and (ink > 0).any(0).sum() == 1
    slanting = plots.pen_drawing([[(0.2, 0.2), (0.8, 0.7)]], width=3)
    assert digit_pixels(slanting).max() == 1  # averaged over areas it is pale; the ink is made full again


def test_the_centre_of_mass_counts_not_the_box():
    """A thick bar on the left and a thin line far to the right: the mass lies left."""
    picture = np.full((100, 100, 3), 255, np.uint8)
    picture[20:80, 20:40], picture[48:52, 40:80] = 0, 0
    ink = digit_pixels(picture)[0, 0]
    columns = np.flatnonzero((ink > 0.1).any(0))
    assert (columns[0] + columns[-1]) / 2 > 15  # the box stands to the right of the middle


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_nothing_drawn_gives_zeros(shade):
    ink = digit_pixels(np.full((50, 70, 3), shade, np.uint8))
    assert ink.shape == (1, 1, 28, 28) and ink.dtype == np.float32 and not ink.any()


def test_noise_on_paper_is_no_digit():
    noise = np.random.default_rng(0).normal(240, 2, (60, 60, 1)).repeat(3, 2)
    assert not digit_pixels(noise.clip(0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (28, 28), (2000, 30)])
def test_pictures_of_any_size_are_taken(size):
    picture = np.full((*size, 3), 255, np.uint8)
    picture[size[0] // 2, size[1] // 2] = 0
    assert np.isfinite(digit_pixels(picture)).all() and digit_pixels(picture).max() <= 1
    assert photo_pixels(picture).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("function", [digit_pixels, photo_pixels])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 4), (1, 28, 28, 3), (0, 5, 3)])
def test_what_is_no_picture_is_refused(function, shape):
    with pytest.raises(ValueError, match=rf"{function.__name__}: expected a picture \(H, W, 3\)"):
        function(np.zeros(shape, np.uint8))


def test_a_photograph_is_the_square_in_the_middle_averaged():
    picture = np.random.default_rng(0).integers(0, 256, (128, 200, 3), dtype=np.uint8)
    wanted = picture[:, 36:164].reshape(32, 4, 32, 4, 3).mean((1, 3)) / 255
    pixels = photo_pixels(picture)
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == np.float32
    assert np.allclose(pixels[0].transpose(1, 2, 0), wanted, atol=1e-6)
    tall = photo_pixels(picture.transpose(1, 0, 2))
    assert np.allclose(tall[0].transpose(2, 1, 0), wanted, atol=1e-6)


def test_classify_is_the_softmax_of_the_prepared_pictures(stored, digits):
    pictures, labels = digits
    p = classify(stored["mnist_cnn"], pictures, batch=50)
    assert p.shape == (120, 10) and np.allclose(p.sum(1), 1, atol=1e-5) and np.mean(p.argmax(1) == labels) > 0.97
    x = mnist_pixels(np.concatenate([255 * digit_pixels(picture)[:, 0] for picture in pictures[:5]]))
    logits = outputs(stored["mnist_cnn"].model, x).astype(np.float64)
    e = np.exp(logits - logits.max(1, keepdims=True))
    assert np.allclose(p[:5], e / e.sum(1, keepdims=True), atol=1e-5)
    assert np.allclose(classify(stored["mnist_cnn"], pictures[:7], batch=3), p[:7], atol=1e-5)


def test_the_mlp_gets_pixels_from_zero_to_one(stored, digits):
    """Its answers alone would hardly show another scale: without biases its logits would just grow with it."""
    for picture in digits[0][:5]:
        assert np.array_equal(stored["mnist_mlp"].prepare(picture), digit_pixels(picture).reshape(1, 784))


def test_classify_prepares_photographs_as_in_training(stored):
    photo = plots.painted_scenes()[3].transpose(1, 2, 0)
    wanted = outputs(stored["cifar10_cnn"].model, cifar10_pixels(photo.transpose(2, 0, 1)[None]))
    assert np.allclose(classify(stored["cifar10_cnn"], [photo]), np.exp(wanted) / np.exp(wanted).sum(), atol=1e-5)


def test_classify_refuses_what_is_no_classifier_and_no_pictures(stored):
    with pytest.raises(ValueError, match="shakespeare_small is no classifier"):
        classify(stored["shakespeare_small"], [np.zeros((28, 28, 3), np.uint8)])
    with pytest.raises(ValueError, match="at least one picture"):
        classify(stored["mnist_mlp"], [])


# --- ONNX -------------------------------------------------------------------------------------------------------------


def runtime(path):
    """A function that runs an ONNX file on one array."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(["logits"], {session.get_inputs()[0].name: x})[0]


def agree(theirs, ours):
    """Whether logits agree to 1e-5 of the largest one: single precision, summed up in another order."""
    return theirs.shape == ours.shape and np.abs(theirs - ours).max() <= 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_what_we_compute(stored, name, tmp_path):
    pytest.importorskip("onnx")
    each, rng = stored[name], np.random.default_rng(0)
    run = runtime(export_onnx(each, tmp_path / "model.onnx"))
    for count, length in ((1, 1), (1, 64), (3, 17), (7, 2)):
        if each.shape is None:
            x = rng.integers(0, each.model.config.vocab_size, (count, length))
        else:
            x = rng.standard_normal((count, *each.shape), np.float32)
        assert agree(run(x), outputs(each.model, x))


SWITCHES = {"positions": ["learned", "sinusoidal", "rotary"], "activation": ["gelu", "gelu_tanh", "relu2"],
            "norm": ["layer", "rms"], "bias": [True, False], "tie_weights": [True, False], "pre_norm": [True, False]}


@pytest.mark.parametrize("number", range(24))
def test_every_kind_of_gpt_is_exported(number, tmp_path):
    """24 of the 144 combinations, chosen so that every pair of switches meets; weights large enough to matter."""
    pytest.importorskip("onnx")
    combinations = list(itertools.product(*SWITCHES.values()))
    chosen = dict(zip(SWITCHES, combinations[number * 6 + number % 6], strict=True))
    model = GPT(GPTConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=12, **chosen), generator=1).eval()
    rng = np.random.default_rng(number)
    for p in model.parameters():
        p.data[...] = 0.5 * rng.standard_normal(p.shape)
    run = runtime(export_onnx(StoredModel("little", model, {}), tmp_path / "model.onnx"))
    for shape in ((3, 13), (1, 16), (2, 1)):
        ids = rng.integers(0, 11, shape)
        assert agree(run(ids), outputs(model, ids))


def test_the_combinations_of_gpts_cover_every_pair():
    combinations = list(itertools.product(*SWITCHES.values()))
    chosen = [combinations[number * 6 + number % 6] for number in range(24)]
    for i, j in itertools.combinations(range(len(SWITCHES)), 2):
        assert {(c[i], c[j]) for c in chosen} == {(c[i], c[j]) for c in combinations}


def odd_network():
    """Every kind of layer with settings that none of the stored models has."""
    model = Sequential(Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2), BatchNorm2d(6, affine=False), ReLU(),
                       Conv2d(6, 5, 3, padding="same", dilation=2), GELU("tanh"), Dropout(0.5),
                       Conv2d(5, 3, 2, padding="valid", bias=False), MaxPool2d(3, 2, padding=1), GELU(), Flatten(),
                       Linear(45, 2, bias=False))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data[...] = 0.5 * rng.standard_normal(p.shape)
    model[1].running_mean[...], model[1].running_var[...] = rng.standard_normal(6), rng.random(6) + 0.5
    return StoredModel("odd", model.eval(), {}, shape=(4, 12, 10))


def test_layers_with_unusual_settings_are_exported(tmp_path):
    pytest.importorskip("onnx")
    each = odd_network()
    run = runtime(export_onnx(each, tmp_path / "odd.onnx"))
    x = np.random.default_rng(1).standard_normal((3, 4, 12, 10), np.float32)
    assert agree(run(x), outputs(each.model, x))


def test_an_onnx_file_says_what_it_is(stored, tmp_path):
    onnx = pytest.importorskip("onnx")
    each = stored["mnist_cnn"]
    proto = onnx.load(export_onnx(each, tmp_path / "m.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", deployment.OPSET)]
    sizes = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert proto.graph.input[0].name == "x" and sizes == ["N", 1, 28, 28]
    assert [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["N", 10]
    assert json.loads({p.key: p.value for p in proto.metadata_props}["classes"]) == each.classes
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in proto.graph.initializer}
    for name, value in each.model.state_dict().items():
        assert name.endswith("num_batches_tracked") or np.array_equal(arrays[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_tied_weights_are_stored_once(stored, tmp_path):
    onnx = pytest.importorskip("onnx")
    each = stored["shakespeare_small"]
    proto = onnx.load(export_onnx(each, tmp_path / "m.onnx"))
    assert each.model.config.tie_weights and "lm_head.weight" not in {a.name for a in proto.graph.initializer}
    numbers = sum(p.data.size for p in each.model.parameters())
    assert 4 * numbers < (tmp_path / "m.onnx").stat().st_size < 4 * numbers + 60_000


def test_a_layer_without_a_rule_is_an_error(tmp_path):
    pytest.importorskip("onnx")
    each = StoredModel("pooled", Sequential(Conv2d(3, 4, 3), Sequential(AvgPool2d(2))), {}, shape=(3, 8, 8))
    with pytest.raises(TypeError, match=r"1\.0 is a AvgPool2d, which no rule writes"):
        export_onnx(each, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "call"), [("onnx", lambda: export_onnx(load_model("mnist_mlp"), "never.onnx")),
                                              ("PIL", lambda: read_picture(b""))])
def test_a_missing_package_is_named(module, call, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"needs the package .*: pip install"):
        call()


def test_pytorch_computes_what_the_onnx_file_computes(stored, tmp_path):
    """The chain to the end: our weights in PyTorch's own layers, beside ONNX Runtime and beside us."""
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("torch.nn")
    load_file = pytest.importorskip("safetensors.torch").load_file
    pytest.importorskip("onnx")
    widths, layers, channels = (32, 32, "pool", 64, 64, "pool", 128, "pool"), [], 1
    for width in widths:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    twins = {"mnist_cnn": nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 10)),
             "mnist_mlp": nn.Sequential(nn.Dropout(0.1), nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 256),
                                        nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))}
    for name, twin in twins.items():
        each = stored[name]
        twin.load_state_dict(load_file(export_safetensors(each, tmp_path / f"{name}.safetensors")))
        x = np.random.default_rng(0).standard_normal((5, *each.shape), np.float32)
        with torch.inference_mode():
            theirs = twin.eval()(torch.from_numpy(x)).numpy()
        assert agree(theirs, outputs(each.model, x))
        assert agree(theirs, runtime(export_onnx(each, tmp_path / f"{name}.onnx"))(x))


# --- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_safetensors_package_reads_what_we_export_and_we_what_it_writes(stored, name, tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    each = stored[name]
    path = export_safetensors(each, tmp_path / "ours.safetensors")
    state, read = each.model.state_dict(), package.load_file(path)
    assert set(read) == set(state) and all(np.array_equal(read[key], value) for key, value in state.items())
    package.save_file(read, tmp_path / "theirs.safetensors")
    back = load(tmp_path / "theirs.safetensors")
    assert all(np.array_equal(back[key], value) and back[key].dtype == np.asarray(value).dtype for key, value in state.items())
    assert load_metadata(path)["name"] == name and json.loads(load_metadata(path)["record"]) == each.record


# --- 8 bits -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.sampled_from([(3, 5), (1, 9), (4, 2, 3, 3), (6, 1)]),
       st.floats(1e-6, 1e6))
def test_the_error_is_at_most_half_a_step(bits, seed, shape, size):
    """round() moves w / s by at most 1/2; single precision adds a few units in the last place of the largest weight."""
    w = (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
    table = quantise({"w": w}, bits)
    top, axes = 2 ** (bits - 1) - 1, tuple(range(1, w.ndim))
    largest = np.abs(w.astype(np.float64)).max(axes, keepdims=True)
    error = np.abs(dequantise(table)["w"].astype(np.float64) - w)
    assert (error <= largest / top / 2 + 4 * np.finfo(np.float32).eps * largest).all()
    assert table["w"].dtype == np.int8 and np.abs(table["w"]).max() <= top
    assert (np.abs(table["w"]).max(axes) == top).all()  # the largest weight of a row uses the whole range
    assert np.allclose(table["w:scale"], largest / top, rtol=1e-6) and table["w:scale"].shape == (shape[0], *[1] * (w.ndim - 1))


def test_the_error_spreads_like_a_uniform_variable():
    w = np.random.default_rng(0).standard_normal((50, 4000)).astype(np.float32)
    table = quantise({"w": w})
    steps = (dequantise(table)["w"] - w) / table["w:scale"]
    assert abs(steps.std() - 12**-0.5) < 0.003 and abs(steps.mean()) < 0.003


def test_vectors_integers_and_zero_rows_survive():
    state = {"bias": np.float32([0.3, -7.1]), "count": np.int64(4), "table": np.arange(6).reshape(2, 3),
             "w": np.float32([[0, 0, 0], [1, -2, 0.5]])}
    back = dequantise(quantise(state))
    assert all(np.array_equal(back[name], state[name]) for name in ("bias", "count", "table"))
    assert np.array_equal(back["w"][0], [0, 0, 0]) and back["w"].dtype == np.float32
    assert set(quantise(state)) == {*state, "w:scale"}  # of vectors nothing is rounded, not even to themselves


def test_quantised_weights_travel_in_a_file_of_a_quarter(stored, tmp_path):
    from shared.tensor_mlp import save

    state = stored["mnist_mlp"].model.state_dict()
    table = quantise(state)
    save(table, tmp_path / "small.safetensors")
    save(state, tmp_path / "large.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.26 * (tmp_path / "large.safetensors").stat().st_size
    back, direct = dequantise(load(tmp_path / "small.safetensors")), dequantise(table)
    assert list(sorted(back)) == sorted(state) and all(np.array_equal(back[name], direct[name]) for name in back)


def test_eight_bits_keep_the_accuracy():
    data, each = datasets.mnist_embedded(), load_model("mnist_mlp")
    x = data.x_test.reshape(-1, 784) / np.float32(255)
    full = np.mean(outputs(each.model, x).argmax(1) == data.y_test)
    each.model.load_state_dict(dequantise(quantise(each.model.state_dict())))
    assert np.mean(outputs(each.model, x).argmax(1) == data.y_test) >= full - 0.001


@pytest.mark.parametrize("bits", [1, 9, 0, -3])
def test_bits_outside_of_two_to_eight_are_refused(bits):
    with pytest.raises(ValueError, match="bits is from 2 to 8"):
        quantise({"w": np.ones((2, 2), np.float32)}, bits)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"layer\.weight holds numbers that are not finite"):
        quantise({"layer.weight": np.float32([[1, bad], [0, 2]])})


# --- batching ---------------------------------------------------------------------------------------------------------


def in_threads(count, function):
    """Call function(i) for i below count, each in its own thread, all at once; returns the results in order."""
    results, gate = [None] * count, threading.Barrier(count)

    def work(i):
        gate.wait()
        results[i] = function(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_each_caller_gets_its_own_result():
    sizes = []

    def doubled(batch):
        sizes.append(len(batch))
        time.sleep(0.002)
        return [2 * x for x in batch]

    with Batcher(doubled, max_size=8, max_wait=0.01) as batcher:
        assert in_threads(60, batcher) == [2 * i for i in range(60)]
    assert sum(sizes) == 60 and max(sizes) <= 8 and len(sizes) < 60


def test_a_full_batch_does_not_wait_and_a_lone_request_does_not_wait_for_ever():
    sizes = []

    def count(batch):
        sizes.append(len(batch))
        return batch

    with Batcher(count, max_size=4, max_wait=600) as batcher:  # only a full batch ends before `in_threads` gives up
        assert in_threads(4, batcher) == [0, 1, 2, 3]
    with Batcher(count, max_size=100, max_wait=0.01) as batcher:
        assert batcher("alone") == "alone"
    assert sizes == [4, 1]


def test_an_error_reaches_only_the_caller_who_caused_it():
    def inverse(batch):
        return [1 / x for x in batch]

    def call(i):
        try:
            return batcher(i % 5)
        except ZeroDivisionError:
            return "zero"

    with Batcher(inverse, max_size=16, max_wait=0.02) as batcher:
        assert in_threads(30, call) == ["zero" if i % 5 == 0 else 1 / (i % 5) for i in range(30)]


def test_too_few_results_are_an_error_not_a_mix_up():
    with Batcher(lambda batch: [], max_size=2, max_wait=0) as batcher, pytest.raises(RuntimeError, match="0 results for 1"):
        batcher(1)


def test_close_finishes_what_waits_and_then_refuses():
    started, go = threading.Event(), threading.Event()

    def slow(batch):
        started.set()
        assert go.wait(30)
        return batch

    batcher = Batcher(slow, max_size=1, max_wait=0)
    futures = [batcher.submit(i) for i in range(5)]
    assert started.wait(30)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    go.set()
    closing.join(30)
    assert not closing.is_alive() and [future.result(0) for future in futures] == list(range(5))
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(5)
    batcher.close()  # once more changes nothing
    assert not batcher._thread.is_alive()


def test_a_caller_that_has_given_up_is_left_out():
    started, go, seen = threading.Event(), threading.Event(), []

    def slow(batch):
        seen.extend(batch)
        started.set()
        assert go.wait(30)
        return batch

    with Batcher(slow, max_size=1, max_wait=0) as batcher:
        first = batcher.submit("first")
        assert started.wait(30)
        gone, last = batcher.submit("gone"), batcher.submit("last")
        assert gone.cancel()
        go.set()
        assert first.result(30) == "first" and last.result(30) == "last"
    assert seen == ["first", "last"]


@pytest.mark.parametrize("settings", [{"max_size": 0}, {"max_wait": -1}, {"max_wait": float("nan")}])
def test_a_batcher_refuses_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="Batcher: expected a size of at least 1 and a wait of at least 0"):
        Batcher(list, **settings)


# --- latency ----------------------------------------------------------------------------------------------------------


class Slower:
    """A function whose calls take 1, 2, 3, ... seconds of its own clock."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def __call__(self, *arguments):
        self.arguments = arguments
        self.calls += 1
        self.now += self.calls

    def clock(self):
        return self.now


def test_latency_leaves_the_warm_up_out_and_reports_measured_times():
    function = Slower()
    found = latency(function, "a", 2, warm_up=3, repeat=100, clock=function.clock)
    assert function.arguments == ("a", 2) and function.calls == 103
    assert found.seconds.tolist() == list(range(4, 104))
    assert (found.mean, found.worst) == (53.5, 103)
    assert (found.p50, found.p90, found.p99) == (53, 93, 102)  # 50, 90 and 99 of the 100 do not exceed them


def test_latency_measures_real_time():
    found = latency(time.sleep, 0.002, warm_up=0, repeat=5)
    assert found.seconds.shape == (5,) and found.seconds.min() >= 0.0019


@pytest.mark.parametrize("settings", [{"repeat": 0}, {"warm_up": -1}])
def test_latency_refuses_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="latency: expected at least 1 call"):
        latency(list, **settings)


# --- figures of this chapter ------------------------------------------------------------------------------------------


def test_a_pen_drawing_is_ink_along_the_stroke():
    picture = plots.pen_drawing([[(0.2, 0.5), (0.8, 0.5)]], size=100, width=10)
    assert picture.shape == (100, 100, 3) and picture.dtype == np.uint8
    ink = picture[..., 0] < 128
    assert ink[50, 20:80].all() and not ink[:40].any() and abs(ink[:, 50].sum() - 10) <= 1


def test_figures_show_what_they_are_given():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3)
    plots.byte_grid(axes[0], b"\x07Ab", [("number", 1, plots.DATA), ("letters", 2, plots.PREDICTION)], columns=2)
    assert [text.get_text() for text in axes[0].texts] == ["07", "A", "b"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["number (1 bytes)", "letters (2 bytes)"]
    nodes = [("input", "x"), ("MatMul", "3x4"), ("Relu", ""), ("Add", "")]
    plots.operator_graph(axes[1], nodes, [(0, 1), (1, 2), (2, 3), (0, 3)], wrap=3)
    texts = {text.get_text(): text.get_position() for text in axes[1].texts if text.get_text()}
    assert set(texts) == {"input", "x", "MatMul", "3x4", "Relu", "Add"}
    assert texts["input"][0] < texts["MatMul"][0] < texts["Relu"][0] and texts["Add"][1] < texts["Relu"][1]
    plots.caught_table(axes[2], ["a bug"], ["one", "two"], [[True, False]])
    assert [text.get_text() for text in axes[2].texts] == ["caught", "missed"]
    plt.close(fig)
