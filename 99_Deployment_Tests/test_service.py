"""The service: right answers, every limit with its status, hostile input, hang-ups, fuzzing, dying workers, a crowd, a stop."""

import asyncio
import base64
import contextlib
import functools
import gc
import hashlib
import http.client
import io
import itertools
import json
import operator
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import shared
from shared import datasets
from shared.cnn import Flatten
from shared.deployment import classify, digit_pixels, load_model, photo_pixels, read_picture, stored_models
from shared.tensor import Tensor, manual_seed
from shared.tensor_mlp import Linear, Sequential
from shared.transformers import GPT, GPTConfig, generate, token_probabilities

for package in ("PIL", "httpx2", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[test]'")
service = pytest.importorskip("shared.service")
load = pytest.importorskip("shared.benchmarks.service")
testclient = pytest.importorskip("fastapi.testclient")
Image = pytest.importorskip("PIL.Image")

AttentionWatch, Settings, create_app, written = service.AttentionWatch, service.Settings, service.create_app, service.written
PNG, JSON = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}
SMALL = Settings(model="shakespeare_small", seconds=300.0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def wait_for(condition, seconds=120):
    """Wait until a condition holds; fails where it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"did not come true within {seconds} seconds"
        time.sleep(0.05)


def started(settings=SMALL):
    """A client of a service in this process. It is asked only when its models are loaded, so its first answer is a good one."""
    client = testclient.TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False)
    client.__enter__()
    assert client.get("/ready").status_code == 200
    return client


@pytest.fixture(scope="module")
def client():
    client = started()
    yield client
    assert client.app.state.worker.free == SMALL.places  # no test's request has kept its place
    client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def seven():
    """A 7 of the test set, dark on light, enlarged: the bytes of a PNG file."""
    data = datasets.mnist_embedded()
    picture = 255 - data.x_test[np.flatnonzero(data.y_test == 7)[0]]
    return load.png(picture.repeat(8, 0).repeat(8, 1))


def unpacked(packed):
    """The numbers of an array as the API sends it."""
    raw = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["shape"])
    return raw * (packed["largest"] / 255)


def lines(answer):
    """The tables of an answer that comes as lines of JSON."""
    return [json.loads(line) for line in answer.text.splitlines()]


# ---- right answers ----


def test_a_digit_is_read_with_the_maps_of_every_convolution(client, seven):
    answer = client.post("/api/digit", content=seven, headers=PNG).json()
    stored, picture = load_model("mnist_cnn"), read_picture(seven)
    np.testing.assert_allclose(answer["probabilities"], classify(stored, [picture])[0], atol=1e-5)
    assert answer["best"] == 7 and answer["classes"][7] == "7"
    np.testing.assert_allclose(unpacked(answer["picture"]), digit_pixels(picture)[0, 0], atol=0.51 / 255)
    maps = service.feature_maps(stored.model, stored.prepare(picture))
    assert [f["shape"] for f in answer["features"]] == [list(m.shape) for m in maps]
    for packed, exact in zip(answer["features"], maps, strict=True):
        np.testing.assert_allclose(unpacked(packed), exact, atol=0.51 * exact.max() / 255)


def test_feature_maps_are_what_the_last_layer_adds_up(seven):
    """The network's remaining layers, applied to the last maps, give the network's own logits."""
    stored = load_model("mnist_cnn")
    x = stored.prepare(read_picture(seven))
    maps = service.feature_maps(stored.model, x)
    assert len(maps) == 5 and all((m >= 0).all() and m.any() for m in maps)
    rest = stored.model[-3:]  # pooling, flatten, linear
    np.testing.assert_allclose(rest(Tensor(maps[-1][None])).data, stored.model(Tensor(x)).data, rtol=1e-4, atol=1e-4)


def test_a_photograph_is_read_with_its_saliency(client):
    picture = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    answer = client.post("/api/photo", content=load.png(picture), headers=PNG).json()
    stored = load_model("cifar10_cnn")
    np.testing.assert_allclose(answer["probabilities"], classify(stored, [picture])[0], atol=1e-5)
    assert answer["classes"] == list(datasets.CIFAR10_CLASSES) and answer["best"] == np.argmax(answer["probabilities"])
    np.testing.assert_allclose(unpacked(answer["picture"]), photo_pixels(picture)[0].transpose(1, 2, 0), atol=0.51 / 255)
    seen = service.saliency(stored.model, stored.prepare(picture))
    np.testing.assert_allclose(unpacked(answer["saliency"]), seen, atol=0.51 * seen.max() / 255)


def test_what_is_asked_leaves_no_gradient_in_the_models(client):
    """They are shared by threads, and never trained here."""
    assert client.post("/api/photo", content=load.png(np.zeros((32, 32, 3), np.uint8)), headers=PNG).status_code == 200
    for stored in client.app.state.worker.models.values():
        assert [p.grad for p in stored.model.parameters() if p.requires_grad or p.grad is not None] == []


def test_saliency_is_the_slope_of_the_winning_logit():
    """Against differences in float64, at the pixels where it is largest and at some others."""
    stored = load_model("mnist_cnn")
    for parameter in stored.model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    data = datasets.mnist_embedded()
    x = stored.prepare(np.repeat(data.x_test[0][..., None], 3, 2)).astype(np.float64)
    x += np.random.default_rng(0).normal(0, 0.05, x.shape)  # blank paper has ties, where pooling has no slope
    seen, best = service.saliency(stored.model, x), int(stored.model(Tensor(x)).data.argmax())
    for place in [np.unravel_index(seen.argmax(), seen.shape), (14, 14), (3, 20), (20, 9)]:
        step = np.zeros_like(x)
        step[(0, 0, *place)] = 1e-7
        ends = [stored.model(Tensor(x + s)).data[0, best] for s in (step, -step)]
        np.testing.assert_allclose(seen[place], abs(ends[0] - ends[1]) / 2e-7, rtol=1e-4, atol=1e-7)


def test_saliency_takes_the_largest_of_the_channels():
    """For a linear model it is the size of the winning class's weights."""
    model = Sequential(Flatten(), Linear(3 * 2 * 2, 2))
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    best = int(model(Tensor(x)).data.argmax())
    np.testing.assert_array_equal(service.saliency(model, x), np.abs(model[1].weight.data[best].reshape(3, 2, 2)).max(0))


CONFIGS = [{}, {"positions": "rotary", "norm": "rms", "tie_weights": False}, {"positions": "sinusoidal"}]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.get("positions", "learned"))
def test_attention_that_is_listened_to_is_the_models_own(config):
    """At each step, also after the context has jumped ahead, the newest row of `attention_maps` of what the model reads."""
    model = GPT(GPTConfig(11, block_size=8, n_layer=2, n_head=2, n_embd=16, **config), generator=0).eval()
    ids, size = [1, 5, 2], 8
    watched = GPT(model.config, generator=0).eval()
    watch, start = AttentionWatch(watched), 0
    for token in generate(watched, np.array(ids), 20, seed=0, stream=True):
        if len(ids) - start > size:
            start = len(ids) - (size + 1) // 2
        expected = model.attention_maps(np.array([ids[start:]]))[:, 0, :, -1]
        np.testing.assert_allclose(np.stack(watch.rows), expected, rtol=1e-4, atol=1e-5)
        ids.append(token)


def test_a_text_comes_with_probabilities_and_attention(client):
    asked = {"prompt": "ROMEO:\n", "tokens": 70, "temperature": 0.7, "top_k": 12, "top_p": 0.95, "seed": 4}
    first, *tokens, last = lines(client.post("/api/generate", json={**asked, "attention": "all"}))
    stored = load_model("shakespeare_small")
    config = stored.model.config
    assert first == {"event": "start", "model": stored.name, "context": config.block_size, "blocks": config.n_layer,
                     "heads": config.n_head, "prompt": list("ROMEO:\n")}
    assert last == {"event": "end", "reason": "length"}
    text = generate(stored.model, "ROMEO:\n", 70, tokenizer=stored.tokenizer, temperature=0.7, top_k=12, top_p=0.95, seed=4)
    assert "ROMEO:\n" + "".join(token["text"] for token in tokens) == text and len(tokens) == 70
    for place in (0, 30, 69):  # the last one stands beyond the context
        token, before = tokens[place], text[: 7 + place]
        seen = before[token["attention"]["first"]:]
        p = token_probabilities(stored.model(stored.tokenizer.encode(seen)[None]).data[0, -1], 0.7, 12, 0.95)
        assert token["probability"] == pytest.approx(p[stored.tokenizer.encode(token["text"])[0]], abs=1e-3)
        assert token["likely"][0][1] == pytest.approx(p.max(), abs=1e-3) and len(token["likely"]) <= 5
        rows = np.array(token["attention"]["thousandths"])
        assert rows.shape == (config.n_layer, config.n_head, len(seen))
        np.testing.assert_allclose(rows.sum(-1), 1000, atol=len(seen) / 2)
        exact = stored.model.attention_maps(stored.tokenizer.encode(seen)[None])[:, 0, :, -1]
        np.testing.assert_allclose(rows, 1000 * exact, atol=0.6)
    mean = lines(client.post("/api/generate", json={**asked, "tokens": 1}))[1]["attention"]["thousandths"]
    np.testing.assert_allclose(mean, np.array(tokens[0]["attention"]["thousandths"]).mean((0, 1)), atol=1)
    assert "attention" not in lines(client.post("/api/generate", json={**asked, "tokens": 1, "attention": "none"}))[1]


def test_writers_do_not_disturb_one_another():
    """Two texts that are written in turns are those that are written alone, with the same attention."""
    stored = load_model("shakespeare_small")
    prompts = [stored.tokenizer.encode(prompt) for prompt in ("ROMEO:", "What is the")]
    alone = [list(written(stored, ids, 12, seed=1, attention="mean")) for ids in prompts]
    turns = zip(*(written(stored, ids, 12, seed=1, attention="mean") for ids in prompts), strict=True)
    assert [list(one) for one in zip(*turns, strict=True)] == alone
    assert not any(module._forward_hooks for module in stored.model.modules())


def test_a_text_without_a_seed_is_another_one_in_each_worker():
    stored, texts = load_model("shakespeare_small"), set()
    for seed in (None, None, 5, 5):
        manual_seed(0)  # as in a fresh process
        texts.add("".join(token["text"] for token in written(stored, np.array([1, 2]), 30, seed=seed)))
    assert len(texts) == 3


def test_a_text_leaves_nothing_behind(monkeypatch):
    """What listened is freed with the text, finished or broken off, without the garbage collector."""
    stored, watches = load_model("shakespeare_small"), []

    class Seen(AttentionWatch):
        def __init__(self, model):
            super().__init__(model)
            watches.append(weakref.ref(self))
            assert all(map(operator.is_, model.parameters(), stored.model.parameters()))  # the weights are not copied

    monkeypatch.setattr(service, "AttentionWatch", Seen)
    gc.disable()
    try:
        list(written(stored, np.array([1, 2]), 3, attention="all"))
        broken_off = written(stored, np.array([1, 2]), 3, attention="all")
        next(broken_off)
        assert [watch() is None for watch in watches] == [True, False]
        del broken_off
        assert [watch() is None for watch in watches] == [True, True]
    finally:
        gc.enable()


def test_memory_does_not_grow_with_the_requests(client, seven):
    """Of pieces of 512 bytes and more, as arrays and bodies are, there are no more after ten rounds of all kinds of requests."""
    photo = load.png(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))

    def ask(times):
        for seed in range(times):
            for path, body in (("/api/digit", seven), ("/api/photo", photo), ("/api/photo", b"none")):
                client.post(path, content=body, headers=PNG)
            client.post("/api/generate", json={"tokens": 2, "seed": seed, "attention": "all"})
            client.post("/api/generate", json={"tokens": 0})

    def pieces():
        gc.collect()
        return sum(trace.size >= 512 for trace in tracemalloc.take_snapshot().traces)

    ask(2)
    tracemalloc.start()
    try:
        ask(1)
        before = pieces()
        ask(10)
        assert pieces() - before < 10  # not one a round
    finally:
        tracemalloc.stop()


def test_models_health_and_readiness(client):
    models = {model["name"]: model for model in client.get("/api/models").json()}
    assert set(models) == set(stored_models())
    assert {model["task"]: name for name, model in models.items() if model["task"]} == {
        "digit": "mnist_cnn", "photo": "cifar10_cnn", "text": "shakespeare_small"}
    assert models["mnist_cnn"]["figure"] == load_model("mnist_cnn").record["figure"]
    assert {name: model["bytes"] for name, model in models.items()} == {
        name: path.stat().st_size for name, path in stored_models().items()}
    assert client.get("/health").json() == {"status": "alive", "version": shared.__version__}
    assert client.get("/ready").json()["status"] == "ready"


@pytest.mark.parametrize("task", ["digit", "photo", "text"])
def test_it_is_not_ready_without_all_of_its_models(client, task, monkeypatch):
    monkeypatch.delitem(client.app.state.worker.models, task)
    answer = client.get("/ready")
    assert answer.status_code == 503 and f"the model for {task} is not stored here" in answer.json()["detail"]


def test_alive_is_not_ready(monkeypatch):
    """Before the models are loaded, and where they cannot be, the service answers, but not what only they could."""
    bare = testclient.TestClient(create_app(SMALL), base_url="http://localhost")  # not entered: nothing is loaded
    assert bare.get("/health").status_code == 200
    for answer in (bare.get("/ready"), bare.post("/api/generate", json={})):
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1 and "still being loaded" in answer.text
    monkeypatch.setattr(service, "load_model", lambda name: 1 / 0)
    with testclient.TestClient(create_app(SMALL), base_url="http://localhost") as broken:
        assert "could not be loaded" in broken.get("/ready").json()["detail"]


# ---- limits ----


def chunk(kind, data):
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@functools.cache
def bomb(width, height):
    """A PNG file of so many pixels, all black, which take next to no space: 1 bit each, and well compressed."""
    rows, left, data = zlib.compressobj(), height * (1 + (width + 7) // 8), []
    while left > 0:
        data.append(rows.compress(bytes(min(left, 1 << 20))))
        left -= 1 << 20
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    whole = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(data) + rows.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


@functools.cache
def text_bomb():
    """A small PNG file beside whose pixels stands a text of 64 MB, compressed."""
    whole = load.png(np.zeros((28, 28), np.uint8))
    return whole[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20))) + whole[33:]


def gif():
    """A picture of a kind that is not read."""
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "gif")
    return buffer.getvalue()


PICTURES = {
    "a bomb of 10 ** 9 pixels": (lambda seven: bomb(32_000, 32_000), 422, "pixels"),
    "a row of pixels too many": (lambda seven: bomb(int(service.PIXELS**0.5), int(service.PIXELS**0.5) + 1), 422, "pixels"),
    "a text beside the pixels that swells": (lambda seven: text_bomb(), 422, "damaged"),
    "truncated": (lambda seven: seven[: len(seven) // 2], 422, "truncated"),
    "a header only": (lambda seven: seven[:8], 422, "truncated"),
    "a gif": (lambda seven: gif(), 422, "neither"),
    "text": (lambda seven: b"To be or not to be", 422, "neither"),
    "nothing": (lambda seven: b"", 422, "neither"),
    "one byte too many": (lambda seven: bytes(service.BODY + 1), 413, "bytes"),
}


@pytest.mark.parametrize("path", ["/api/digit", "/api/photo"])
@pytest.mark.parametrize(("make", "status", "word"), PICTURES.values(), ids=PICTURES)
def test_a_picture_that_is_none_is_refused(client, seven, path, make, status, word):
    answer = client.post(path, content=make(seven), headers=PNG)
    assert answer.status_code == status and word in answer.json()["detail"]
    assert client.get("/health").status_code == 200


def test_the_largest_body_and_picture_that_are_allowed_are_taken(client):
    side = int(service.PIXELS**0.5)
    assert client.post("/api/digit", content=bomb(side, side), headers=PNG).status_code == 200
    answer = client.post("/api/digit", content=bytes(service.BODY), headers=PNG)
    assert answer.status_code == 422 and "neither" in answer.json()["detail"]  # read, and found to be no picture


def test_a_body_of_unknown_length_is_cut_off(client):
    """A byte more than is allowed; without it the whole is read, and found to be no picture."""
    def pieces(count):
        while count > 0:
            yield bytes(min(count, 1 << 20))
            count -= 1 << 20

    assert client.post("/api/digit", content=pieces(service.BODY + 1), headers=PNG).status_code == 413
    assert client.post("/api/digit", content=pieces(service.BODY), headers=PNG).status_code == 422


@pytest.mark.parametrize("kind", [None, "text/plain", "image/gif", "application/json", "multipart/form-data; boundary=x"])
def test_a_picture_under_another_type_is_refused(client, seven, kind):
    answer = client.post("/api/digit", content=seven, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415 and "image/png" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["image/png; charset=binary", "IMAGE/JPEG"])
def test_a_type_is_read_without_its_parameters(client, seven, kind):
    assert client.post("/api/digit", content=seven, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_prompt_under_another_type_is_refused(client, kind):
    """These are the types that a browser sends to a foreign host without asking it first."""
    answer = client.post("/api/generate", content=b'{"prompt": "a"}', headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415


@pytest.mark.parametrize(("body", "word"), [
    ({"prompt": "a" * (service.PROMPT + 1)}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": "é"}, "'é' at position 0"),
    ({"tokens": service.TOKENS + 1}, "tokens"), ({"tokens": 0}, "tokens"), ({"temperature": -1}, "temperature"),
    ({"temperature": 6}, "temperature"), ({"top_k": 0}, "top_k"), ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"),
    ({"seed": -1}, "seed"), ({"attention": "some"}, "attention"), ({"volume": 11}, "volume"), (["a"], ""),
])
def test_a_prompt_that_makes_no_sense_is_refused(client, body, word):
    answer = client.post("/api/generate", json=body)
    assert answer.status_code == 422 and word in answer.json()["detail"] and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("body", [
    b"", b"{", b"\xff\xfe", b'{"temperature": NaN}', b'{"temperature": 1e999}', b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}',
    b'{"seed": 1' + b"0" * 5000 + b"}", b"[" * 100_000, b'{"prompt": null}',
], ids=lambda body: repr(body[:20]))
def test_json_that_is_none_or_strange_is_refused(client, body):
    answer = client.post("/api/generate", content=body, headers=JSON)
    assert answer.status_code in (400, 422) and answer.json()["detail"]


def test_the_longest_prompt_is_taken(client):
    first, _, last = lines(client.post("/api/generate", json={"prompt": "a" * service.PROMPT, "tokens": 1}))
    assert len(first["prompt"]) == service.PROMPT and last["reason"] == "length"


def test_who_finds_no_place_is_told_to_come_again(client, seven, monkeypatch):
    worker = client.app.state.worker
    monkeypatch.setattr(worker, "free", 0)
    for answer in (client.post("/api/digit", content=seven, headers=PNG), client.post("/api/generate", json={"tokens": 1})):
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1" and "64 requests" in answer.json()["detail"]
    assert client.get("/health").status_code == 200 and worker.free == 0


def test_what_takes_too_long_is_ended(seven, monkeypatch):
    """A picture with 504; a text, whose answer has begun, with a last line that says so."""
    client, go_on = started(Settings(model="shakespeare_small", seconds=0.3)), threading.Event()
    worker = client.app.state.worker
    monkeypatch.setattr(worker, "digit", lambda body: go_on.wait(60))

    def slow(*arguments, **settings):
        yield {"event": "token"}
        go_on.wait(60)
        yield {"event": "token"}

    monkeypatch.setattr(service, "written", slow)
    answer = client.post("/api/digit", content=seven, headers=PNG)
    assert answer.status_code == 504 and "0.3 seconds" in answer.json()["detail"]
    *_, last = lines(client.post("/api/generate", json={"tokens": 2}))
    go_on.set()
    assert last == {"event": "end", "reason": "time"}
    assert worker.free == worker.settings.places
    client.__exit__(None, None, None)


# ---- what no client of the library could send: the application is called directly ----


def call(app, path, receive, send, headers=(), method="POST"):
    """The application's answer to a request, as its server would call it."""
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
             "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "headers": [(b"host", b"localhost"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    return app(scope, receive, send)


def test_a_client_that_hangs_up_ends_the_writing():
    app = create_app(Settings(model="shakespeare_small", seconds=300.0, places=1))
    worker, sent = app.state.worker, []
    worker.load()

    async def scene():
        asked, gone = [{"type": "http.request", "body": b'{"tokens": 1000}'}], asyncio.Event()

        async def receive():
            if asked:
                return asked.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) == 10:
                gone.set()

        await call(app, "/api/generate", receive, send, [(b"content-type", b"application/json")])

    asyncio.run(scene())
    assert 10 <= len(sent) < 50 and worker.free == 1


def test_a_body_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(service, "BODY_SECONDS", 0.2)
    app, sent = create_app(SMALL), []

    async def scene():
        asked = [{"type": "http.request", "body": b"\x89PNG", "more_body": True}]

        async def receive():
            return asked.pop() if asked else await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await call(app, "/api/digit", receive, send, [(b"content-type", b"image/png")])

    asyncio.run(scene())
    assert sent[0]["status"] == 408


# ---- browsers ----


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "", "[::1", "127.0.0.1.nip.io"])
def test_a_foreign_name_is_not_served(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_the_own_names_are_served(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_another_origin_may_not_ask(client):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = client.options("/api/digit", headers={"Origin": "https://evil.example", **asked})
    assert answer.status_code == 405 and not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_tells_the_browser_what_to_refuse(client, seven):
    answers = [client.get("/"), client.get("/nowhere"), client.post("/api/digit", content=seven, headers=PNG),
               client.post("/api/digit", content=b"", headers=PNG), client.get("/", headers={"Host": "evil.example"})]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 422, 421]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Frame-Options"] == "DENY"
        assert {answer.headers[f"Cross-Origin-{what}-Policy"] for what in ("Opener", "Resource")} == {"same-origin"}
        assert "server" not in answer.headers


class Page(HTMLParser):
    """Collects the elements of a page, and the text of its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], {"script": "", "style": ""}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in self.texts:
            self.texts[self.inside] += data


def test_the_page_is_one_file_and_its_policy_allows_no_other(client):
    answer = client.get("/")
    assert answer.headers["Content-Type"].startswith("text/html")
    page, policy = Page(answer.text), answer.headers["Content-Security-Policy"]
    for tag, text in page.texts.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert text and f"{tag}-src 'sha256-{digest}';" in policy
    for tag, attributes in page.elements:
        assert "style" not in attributes and not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not (attributes.get("src") or attributes.get("href") or "").startswith(("http", "//")), (tag, attributes)
    assert not re.search(r"\b(eval|innerHTML|outerHTML|document\.write)\b", page.texts["script"])


def test_the_page_names_what_can_be_operated(client):
    """Each control has a label or a text, each picture a description, each id is there once, and the language is said."""
    page = Page(client.get("/").text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label" and "for" in attributes}
    wrapped = [inner.get("id") for (tag, _), (_, inner) in itertools.pairwise(page.elements) if tag == "label"]
    for tag, attributes in page.elements:
        if tag in ("input", "select", "textarea"):
            assert attributes["id"] in labelled or attributes["id"] in wrapped, attributes
        if tag == "canvas":
            assert attributes["aria-label"] and attributes["role"]
    assert dict(page.elements)["html"]["lang"] == "en"


# ---- the description ----


def test_the_description_lists_every_refusal(client):
    described = client.get("/openapi.json").json()
    assert described["info"]["version"] == shared.__version__
    for path in ("/api/digit", "/api/photo", "/api/generate"):
        assert {"200", "408", "413", "415", "422", "503", "504"} <= set(described["paths"][path]["post"]["responses"])
    assert set(described["paths"]["/api/digit"]["post"]["requestBody"]["content"]) == {"image/png", "image/jpeg"}
    [(kind, lines_of)] = described["paths"]["/api/generate"]["post"]["responses"]["200"]["content"].items()
    assert kind == "application/x-ndjson" and {ref["$ref"].split("/")[-1] for ref in lines_of["schema"]["anyOf"]} == {
        "Start", "Token", "End"}
    assert "/" not in described["paths"]
    for path in ("/docs", "/redoc"):  # both would load scripts from elsewhere
        assert client.get(path).status_code == 404


def test_fuzzing_by_the_description_finds_no_server_error(client):
    """Requests drawn at random from the description, valid and broken ones: none is answered with 500 or more."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install -e '.[test]'")
    for kind, beginning in (("image/png", b"\x89PNG\r\n\x1a\n"), ("image/jpeg", b"\xff\xd8\xff")):  # a schema cannot say these
        drawn = st.binary(max_size=400)
        schemathesis.openapi.media_type(kind, drawn | drawn.map(lambda rest, beginning=beginning: beginning + rest))
    described = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    seen = {}
    for operation in (result.ok() for result in described.get_all_operations()):
        modes = list(schemathesis.GenerationMode)[: 2 if list(operation.body) else 1]  # where nothing is sent, nothing is broken

        @bounded(60)
        @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]))
        def fuzz(case):
            seen.setdefault((case.method, case.path), set()).add(send(client, case))

        fuzz()
    assert len(seen) == 6 and seen["POST", "/api/generate"] >= {200, 422} and 422 in seen["POST", "/api/digit"]


def bounded(examples):
    """The settings of a test that draws so many examples, the same in each run."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck))


def send(client, case):
    """Send a case that schemathesis has drawn, with few tokens to write; returns the status, which must be below 500."""
    asked = case.as_transport_kwargs(base_url="http://localhost")
    body = asked.get("data")
    if "json" in asked:
        body = asked["json"]
        if isinstance(body, dict) and body.get("tokens", 200) in range(1, service.TOKENS + 1):
            body = {**body, "tokens": 2}
        body = json.dumps(body).encode()
    answer = client.request(asked["method"], asked["url"], content=body, params=asked["params"], headers=asked["headers"])
    assert answer.status_code < 500, (case, answer.text)
    return answer.status_code


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_damaged_pictures_are_refused_or_read(client, seven, kind):
    """Files with some bytes overwritten, cut out or repeated: nothing in a picture's format brings the service down."""
    buffer, seen = io.BytesIO(), set()
    Image.open(io.BytesIO(seven)).save(buffer, kind)
    whole = buffer.getvalue()

    @bounded(25)
    @given(st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4))
    def damage(cuts):
        body = whole
        for place, length, put in cuts:
            body = body[:place] + put + body[place + length :]
        answer = client.post("/api/digit", content=body, headers=PNG)
        seen.add(answer.status_code)
        assert answer.status_code in (200, 422), answer.text

    damage()
    assert seen == {200, 422} if kind == "jpeg" else 422 in seen


# ---- processes ----


class Supervision:
    """Stands in for the supervisor: notes what it is given, and ends at once."""

    interrupted, made = False, None

    def __init__(self, config, sockets):
        type(self).made = self
        self.config, self.address = config, sockets[0].getsockname()
        self.environment = dict(os.environ)

    def run(self):
        """Nothing to supervise."""


@pytest.fixture
def supervision(monkeypatch):
    """`serve` without processes, in an environment of its own."""
    stand_in = type("Stands", (Supervision,), {})
    monkeypatch.setattr(service, "Supervisor", stand_in)
    for name in ("COURSE_SERVICE", "COURSE_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what `serve` sets is taken back
        monkeypatch.delenv(name)
    return stand_in


def has_ipv6():
    """Whether this machine has an address of its own in IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize(("host", "shown"), [
    ("127.0.0.1", "127.0.0.1"),
    pytest.param("::1", "[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"))])
def test_serve_binds_announces_and_tells_its_workers(host, shown, supervision):
    said = []
    service.serve(host, 0, 3, Settings(model="shakespeare_small", seconds=7.5), announce=said.append)
    made = supervision.made
    assert said == [f"http://{shown}:{made.address[1]}"] and made.address[0] == host
    assert made.config.workers == 3 and made.config.timeout_graceful_shutdown > 7.5  # what is running may take its time
    assert made.environment["COURSE_THREADS"] == made.environment["OPENBLAS_NUM_THREADS"] == "1"
    assert Settings(**json.loads(made.environment["COURSE_SERVICE"])).seconds == 7.5


def test_serve_leaves_threads_that_were_chosen_alone(supervision, monkeypatch):
    monkeypatch.setenv("COURSE_THREADS", "4")
    service.serve(port=0, announce=lambda address: None)
    assert supervision.made.environment["COURSE_THREADS"] == "4"


def test_serve_tells_an_interruption_from_a_stop(supervision):
    service.serve(port=0, announce=lambda address: None)
    supervision.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        service.serve(port=0, announce=lambda address: None)


@pytest.fixture(scope="module")
def two_workers():
    """A service of two workers in processes of its own: (the supervisor, the port)."""
    with load.running_service("--workers", 2, "--seconds", 600, "--model", "shakespeare_small") as running:
        yield running


@linux
def test_a_crowd_is_answered_without_an_error(two_workers):
    """A short run of the load script; how fast, only the script itself says."""
    supervisor, port = two_workers
    results = load.crowd(port, clients=50, seconds=5)
    assert all(load.resident(worker) > 10 for worker in load.workers(supervisor.pid))
    answers = [answer for kind in load.MIX for answer in results.get(kind, [])]
    assert len(answers) >= 50 and not [problem for _, problem in answers if problem]


@linux
def test_a_worker_that_is_killed_comes_back_while_others_ask(two_workers, seven):
    supervisor, port = two_workers
    before, stop, answered = set(load.workers(supervisor.pid)), threading.Event(), []

    def client():
        while not stop.is_set():
            try:
                answered.append(load.ask(port, "POST", "/api/digit", seven, "image/png", timeout=300)[0])
            except (OSError, http.client.HTTPException):  # the request was in the worker that died
                answered.append(None)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: 200 in answered)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in load.workers(supervisor.pid) and len(load.workers(supervisor.pid)) == 2)
        count = len(answered)
        wait_for(lambda: answered[count:].count(200) >= 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(before) == 2 and set(answered) <= {200, None}
    assert answered.count(None) <= len(threads)  # at most one for each client


@linux
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_finishes_what_is_running(sent, code):
    with load.running_service("--seconds", 300, "--model", "shakespeare_small") as (supervisor, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/api/generate", json.dumps({"tokens": 300, "seed": 1, "attention": "none"}), JSON)
        answer = connection.getresponse()
        got = [answer.readline() for _ in range(3)]
        supervisor.send_signal(sent)
        wait_for(lambda: not load.is_ready(port))  # no new ones are taken
        got += answer.readlines()
        connection.close()
        assert json.loads(got[-1]) == {"event": "end", "reason": "length"} and len(got) == 302
        assert supervisor.wait(timeout=120) == code


def assert_workers_end_with(supervisor):
    """Kill a supervisor; its two workers end by themselves."""
    wait_for(lambda: len(load.workers(supervisor.pid)) == 2)
    workers = load.workers(supervisor.pid)
    supervisor.kill()
    wait_for(lambda: not any(os.path.exists(f"/proc/{worker}/maps") for worker in workers))


@linux
def test_no_worker_outlives_a_supervisor_that_dies_while_they_start():
    command = [sys.executable, "-m", "shared", "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        supervisor.stdout.readline()
        assert_workers_end_with(supervisor)


@linux
def test_no_worker_outlives_its_supervisor(two_workers):
    """The last test of this file: afterwards the two are gone."""
    supervisor, _ = two_workers
    assert_workers_end_with(supervisor)
