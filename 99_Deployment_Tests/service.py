"""The service: the trained models over HTTP, and a page to try them on.

`python -m shared serve` starts it: a supervisor, and worker processes. Each worker loads the models, then takes
connections, and runs the models in a few threads. A request waits its turn there, one token at a time where it writes
text, so that a long text does not keep a short question waiting. What could do harm is bounded: the size and pace of a
body, the pixels of a picture, the length of a prompt, the number of requests at a time, and the time of each. The
OpenAPI description, /openapi.json, lists the statuses.
"""

import asyncio
import base64
import copy
import hashlib
import json
import logging
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from time import monotonic
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from uvicorn.supervisors import Multiprocess

import shared
from shared.deployment import (
    PictureError,
    classify,
    digit_pixels,
    load_model,
    photo_pixels,
    read_picture,
    stored_models,
)
from shared.models import DIGIT_MODEL, PHOTO_MODEL, Failure, default_text_model, described_models, prompt_ids
from shared.tensor import Tensor, no_grad
from shared.tensor_mlp import ReLU
from shared.transformers import KVCache, attention_weights, generate, token_probabilities

__all__ = ["AttentionWatch", "Settings", "create_app", "feature_maps", "saliency", "serve", "written"]

BODY = 4 << 20         # bytes of a request's body
PIXELS = 4_000_000     # of a picture, whatever its bytes are
BODY_SECONDS = 10.0    # in which it must have come
PROMPT = 2000          # characters
TOKENS = 1000          # new ones, for one request
PICTURES = ("image/png", "image/jpeg")
PAGE = Path(__file__).with_name("page.html")

log = logging.getLogger("uvicorn.error")


# ---- what a model shows of itself ----


def feature_maps(model, x):
    """What each convolution of a Sequential sees in a picture x (1, C, H, W), after its ReLU: arrays (channels, h, w)."""
    maps = []
    with no_grad():
        x = Tensor(x)
        for layer in model:
            x = layer(x)
            if isinstance(layer, ReLU) and x.ndim == 4:
                maps.append(x.data[0])
    return maps


def saliency(model, x):
    """|d logit / d pixel| of the winning class for one picture x (1, C, H, W), the largest of its channels: (H, W).

    Simonyan, Vedaldi and Zisserman (2014), Deep inside convolutional networks.
    """
    x = Tensor(x, requires_grad=True)
    logits = model(x)
    logits[0, int(logits.data.argmax())].backward()
    return np.abs(x.grad[0]).max(0)


class AttentionWatch:
    """Listens to a GPT that writes with its cache: `rows`, for each block, how much the newest token looks at the others.

    A row is an array (heads, tokens in the context). The queries and keys are those that the attention itself used.
    """

    def __init__(self, model):
        self.attentions, self.size = [block.attn for block in model.transformer.h], model.config.block_size
        self.memories, self.rows = [None] * len(self.attentions), [None] * len(self.attentions)
        self.handles = [attention.c_attn.register_forward_hook(partial(self._heard, number))
                        for number, attention in enumerate(self.attentions)]

    def close(self):
        """Listen no longer. Model and watch hold each other until then, and with them the keys of a whole text."""
        while self.handles:
            self.handles.pop().remove()

    def _heard(self, number, module, args, qkv):
        attention, length = self.attentions[number], qkv.shape[1]
        if length > 1 or self.memories[number] is None:  # the model reads anew: a prompt, or a context that jumped ahead
            self.memories[number] = KVCache(self.size)
        memory = self.memories[number]
        q, k, v = qkv.reshape(1, length, 3, attention.n_head, -1).permute(2, 0, 3, 1, 4)
        if attention.rotary is not None:
            q, k = attention.rotary(q, memory.length), attention.rotary(k, memory.length)
        keys, _ = memory.append(k.data, v.data)
        self.rows[number] = attention_weights(q[:, :, -1:], Tensor(keys)).data[0, :, 0]


def written(stored, ids, tokens, *, temperature=1.0, top_k=None, top_p=None, seed=None, attention="none"):
    """Let a stored GPT continue ids (T,): yields a table for each new token, as the API's description explains.

    The text is that of `generate` with the same arguments; without a seed it is another one each time. The model is a copy
    with the same weights, so that several threads may write at once, each listening to its own.
    """
    model = copy.deepcopy(stored.model, {id(p): p for p in stored.model.parameters()})
    heard, drawn, count = {}, [], len(ids)
    model.lm_head.register_forward_hook(lambda module, args, logits: heard.update(logits=logits.data[0, -1]))
    watch = AttentionWatch(model) if attention != "none" else None

    def noted(new):
        for token in new:
            drawn.append(token)
            yield token

    new = generate(model, ids, tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=np.random.default_rng(seed),
                   stream=True)
    try:
        for text in stored.tokenizer.decode_each(noted(new)):
            p = token_probabilities(heard["logits"], temperature, top_k, top_p)
            likely = [int(i) for i in np.argsort(-p, kind="stable")[:5] if p[i] > 0]
            token = {"event": "token", "text": text, "probability": round(float(p[drawn[-1]]), 4),
                     "likely": [[stored.tokenizer.decode([i]), round(float(p[i]), 4)] for i in likely]}
            if watch:
                token["attention"] = looked_back(watch.rows, count + len(drawn) - 1, mean=attention == "mean")
            yield token
    finally:
        if watch:
            watch.close()


def looked_back(rows, count, mean):
    """Rows of attention, one (heads, tokens in the context) for each block, as the API sends them; `count` tokens came before."""
    shares = np.stack(rows)
    shown = np.rint(1000 * (shares.mean((0, 1)) if mean else shares)).astype(int)
    return {"first": count - shares.shape[-1], "thousandths": shown.tolist()}


def packed(values, largest=None):
    """An array of numbers from 0 to `largest` as the API sends it: its shape, and a byte for each number, in base64."""
    largest = float(values.max() if largest is None else largest)
    scaled = np.rint(values * (255 / largest) if largest > 0 else values * 0)
    return {"shape": list(values.shape), "largest": round(largest, 6),
            "data": base64.b64encode(scaled.astype(np.uint8).tobytes()).decode()}


# ---- what is sent and answered: the source of the OpenAPI description ----


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Packed(BaseModel):
    """An array of numbers, a byte each: a number is `largest` times its byte divided by 255."""

    shape: list[int]
    largest: float
    data: str = Field(description="base64 of the bytes, the last axis running fastest")


class Classified(BaseModel):
    """The probabilities of the classes, in the order of `classes`."""

    model: str
    classes: list[str]
    probabilities: list[float]
    best: int = Field(description="the place of the likeliest class")


class Digit(Classified):
    """A digit that was read."""

    picture: Packed = Field(description="what the network saw: 28 x 28, ink bright")
    features: list[Packed] = Field(description="of each convolution, after its ReLU: (channels, height, width)")


class Photo(Classified):
    """A photograph that was read."""

    picture: Packed = Field(description="what the network saw: 32 x 32 pixels of red, green and blue")
    saliency: Packed = Field(description="how much each pixel moves the winning class: 32 x 32")


class Prompt(BaseModel):
    """A text to continue, and how."""

    model_config = ConfigDict(extra="forbid")
    prompt: str = Field("\n", min_length=1, max_length=PROMPT)
    tokens: int = Field(200, ge=1, le=TOKENS, description="how many to add")
    temperature: float = Field(0.8, ge=0, le=5, allow_inf_nan=False, description="0 always takes the likeliest token")
    top_k: int | None = Field(None, ge=1, le=100_000, description="draw among the k likeliest only")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among the fewest that have this probability together")
    seed: int | None = Field(None, ge=0, lt=2**32, description="the same seed writes the same text; none: another one each time")
    attention: Literal["none", "mean", "all"] = Field("mean", description="of all heads together, or of each block and head")


class Start(BaseModel):
    """The first line of a text."""

    event: Literal["start"]
    model: str
    context: int = Field(description="how many tokens the model sees at most")
    blocks: int
    heads: int
    prompt: list[str] = Field(description="the tokens of the prompt")


class Attention(BaseModel):
    """How the model looked back when it chose a token."""

    first: int = Field(description="the place, counted from the prompt's first token, of the first token it could see")
    thousandths: list = Field(description="a share for each token from there on; with `all`, by block and head")


class Token(BaseModel):
    """The next line of a text."""

    event: Literal["token"]
    text: str
    probability: float = Field(description="with which it was drawn")
    likely: list[tuple[str, float]] = Field(description="the likeliest tokens at this place, at most five")
    attention: Attention | None = None


class End(BaseModel):
    """The last line of a text."""

    event: Literal["end"]
    reason: Literal["length", "time"]


class Model(BaseModel):
    """A stored model."""

    name: str
    task: str | None = Field(description="what it does here: digit, photo or text; nothing where it is only stored")
    figure: dict[str, float] = Field(description="what it reached on data that it was not trained on")
    bytes: int


class State(BaseModel):
    """How the service is."""

    status: str
    version: str


def problem(status, text, headers=None):
    """A refusal as JSON."""
    return JSONResponse({"detail": text}, status, headers)


PROBLEMS = {
    408: "the body came too slowly", 413: "the body is too large",
    415: "a content type that is not read here", 422: "what was sent makes no sense; the text says why",
    503: "not ready yet, or too many requests at a time: ask again after Retry-After seconds", 504: "it took too long",
}
REFUSED = {status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()}
PICTURE_BODY = {"requestBody": {"required": True, "content": {
    kind: {"schema": {"type": "string", "format": "binary", "maxLength": BODY}} for kind in PICTURES}}}


# ---- what every request passes first ----


def page_policy(page):
    """The Content-Security-Policy of the page: its own styles and scripts, by their hashes, and no other address."""
    def hashes(tag):
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
                        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))

    return (f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Guard:
    """Looks at a request before the service does: was it meant for this host, does its body stay within bounds?

    The host's name matters even on this machine alone: a page from elsewhere may let its own name point here, and would
    then count as the same origin. Every answer leaves with headers that tell a browser to trust nothing else.
    """

    def __init__(self, app, hosts, headers):
        self.app, self.hosts, self.headers = app, hosts, headers

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message):
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    answered.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if self.hosts and not self._known(headers.get("host", "")):
            return await problem(421, "this address is not served here")(scope, receive, with_headers)
        if not length.isdecimal() or len(length) > 15 or int(length) > BODY:
            return await problem(413, f"the body may have {BODY:,} bytes")(scope, receive, with_headers)
        return await self.app(scope, self._bounded(receive), with_headers)

    def _known(self, host):
        with suppress(ValueError):
            return urlsplit(f"//{host}").hostname in self.hosts
        return False

    def _bounded(self, receive):
        """`receive`, which raises as soon as the body is too long or too slow."""
        left, until, whole = BODY, monotonic() + BODY_SECONDS, False

        async def bounded():
            nonlocal left, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(until - monotonic()):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body did not come within {BODY_SECONDS:.0f} seconds") from error
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body may have {BODY:,} bytes")
            whole = not message.get("more_body", False)
            return message

        return bounded


def content_type(*kinds):
    """A dependency: 415 for a request of another kind. The kinds are such that a browser asks before it sends them here."""
    async def check(request: Request):  # a plain function would be called in a thread of its own
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in kinds:
            raise HTTPException(415, f"expected a body of type {' or '.join(kinds)}, got {kind or 'none'}")

    return Depends(check)


# ---- the models at work ----


@dataclass(frozen=True)
class Settings:
    """How a worker is set up. It travels to the worker processes as JSON.

    model : the name of the text model; the best one stored, without a name.
    threads : how many requests are worked on at the same moment.
    places : how many requests may be at work or waiting; the next one is told to come again. A text that is being written
        holds its keys and values, about 4 MB with the larger model: this bounds the memory of a crowd.
    seconds : the time for one request.
    hosts : the names under which the service may be asked; none allows all.
    """

    model: str | None = None
    threads: int = 2
    places: int = 64
    seconds: float = 30.0
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")


class Worker:
    """The models of one process, the threads that run them, and the places for requests."""

    def __init__(self, settings):
        self.settings, self.free = settings, settings.places
        self.pool = ThreadPoolExecutor(settings.threads, "model")
        self.models, self.failure = {}, None

    def load(self):
        """Load what is stored for each task, and let it run once."""
        names = {"digit": DIGIT_MODEL, "photo": PHOTO_MODEL, "text": default_text_model(self.settings.model)}
        known, models = stored_models(), {}
        for task, name in names.items():
            if name in known:
                models[task] = load_model(name)
                for parameter in models[task].model.parameters():
                    parameter.requires_grad = False  # nothing here is trained, and threads share the models
        self.models = models

    def stored(self, task):
        """The model for a task. Raises 503 while there is none."""
        if task not in self.models:
            why = self.failure or f"the model for {task} is {'not stored here' if self.models else 'still being loaded'}"
            raise HTTPException(503, why, {"Retry-After": "2"})
        return self.models[task]

    def take_place(self):
        """Raises 503 where none is free. To be given back with `leave`."""
        if self.free < 1:
            raise HTTPException(503, f"{self.settings.places} requests are at work or waiting", {"Retry-After": "1"})
        self.free -= 1

    def leave(self):
        """Give the place back."""
        self.free += 1

    @contextmanager
    def place(self):
        """A place for as long as a block runs."""
        self.take_place()
        try:
            yield
        finally:
            self.leave()

    async def run(self, until, function, *arguments):
        """Call a function in one of the threads; raises TimeoutError where it has not returned at the time `until`.

        What still waits for a thread then is dropped; what runs, runs on, for a thread cannot be stopped.
        """
        async with asyncio.timeout(until - monotonic()):
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def answer(self, function, *arguments):
        """`run` with a place and the time of one request. Raises 504 where it took too long, 422 for what is no picture."""
        with self.place():
            try:
                return await self.run(monotonic() + self.settings.seconds, function, *arguments)
            except TimeoutError as error:
                raise HTTPException(504, f"no answer within {self.settings.seconds:g} seconds") from error
            except PictureError as error:
                raise HTTPException(422, str(error)) from error

    def digit(self, body):
        """The answer to /api/digit."""
        stored, picture = self.stored("digit"), read_picture(body, PIXELS)
        maps = feature_maps(stored.model, stored.prepare(picture))
        return {**classified(stored, picture), "picture": packed(digit_pixels(picture)[0, 0], 1),
                "features": [packed(m) for m in maps]}

    def photo(self, body):
        """The answer to /api/photo."""
        stored, picture = self.stored("photo"), read_picture(body, PIXELS)
        return {**classified(stored, picture), "picture": packed(photo_pixels(picture)[0].transpose(1, 2, 0), 1),
                "saliency": packed(saliency(stored.model, stored.prepare(picture)))}

    async def lines(self, stored, ids, request):
        """The answer to /api/generate, line by line."""
        until, config = monotonic() + self.settings.seconds, stored.model.config
        settings = request.model_dump(exclude={"prompt", "tokens"})
        yield line({"event": "start", "model": stored.name, "context": config.block_size, "blocks": config.n_layer,
                    "heads": config.n_head, "prompt": [stored.tokenizer.decode([i]) for i in ids]})
        tokens = written(stored, ids, request.tokens, **settings)
        try:
            while token := await self.run(until, next, tokens, None):
                yield line(token)
        except TimeoutError:
            yield line({"event": "end", "reason": "time"})
        else:
            yield line({"event": "end", "reason": "length"})


def classified(stored, picture):
    """The probabilities of one picture's classes."""
    p = classify(stored, [picture])[0]
    return {"model": stored.name, "classes": list(map(str, stored.classes)), "probabilities": [round(float(q), 6) for q in p],
            "best": int(p.argmax())}


def line(table):
    """A line of JSON."""
    return json.dumps(table, separators=(",", ":")) + "\n"


class Streamed(StreamingResponse):
    """Lines of JSON as they come. Whatever ends the answer, a client that hangs up too, `done` is called."""

    media_type = "application/x-ndjson"

    def __init__(self, lines, done):
        super().__init__(lines)
        self.done = done

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.done()


def create_app(settings=None):
    """The ASGI application; without settings, those that `serve` left in the environment for its workers."""
    supervised = settings is None
    if supervised:
        settings = Settings(**json.loads(os.environ["COURSE_SERVICE"]))
    worker, page = Worker(settings), PAGE.read_text(encoding="utf-8")

    async def load():
        try:
            await asyncio.to_thread(worker.load)
        except Exception as error:  # whatever it is, the service stays up and says so
            worker.failure = f"the models could not be loaded: {error}"
            log.exception("the models could not be loaded")

    async def end_with_supervisor():
        while parent_process().is_alive():
            await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    @asynccontextmanager
    async def lifespan(app):
        watch = asyncio.create_task(end_with_supervisor()) if supervised else None
        await load()  # until then no connection is accepted: it waits, or another worker takes it
        yield
        if watch:
            watch.cancel()
        worker.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="Deep learning from NumPy", version=shared.__version__, lifespan=lifespan, docs_url=None,
                  redoc_url=None, description="The models of the course: digits, photographs, and text.")
    app.state.worker = worker
    app.add_middleware(Guard, hosts=settings.hosts, headers={
        "Content-Security-Policy": page_policy(page), "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
        "Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": "camera=(), microphone=(), geolocation=()"})
    _add_routes(app, worker, page)
    return app


def _add_routes(app, worker, page):
    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        first = error.errors()[0]
        return problem(422, f"{'.'.join(map(str, first['loc'][1:])) or 'body'}: {first['msg']}")

    @app.get("/", include_in_schema=False)
    async def index():
        return HTMLResponse(page)

    @app.get("/health")
    async def health() -> State:
        """Alive."""
        return State(status="alive", version=shared.__version__)

    @app.get("/ready", responses={503: REFUSED[503]})
    async def ready() -> State:
        """The models are loaded."""
        for task in ("digit", "photo", "text"):
            worker.stored(task)
        return State(status="ready", version=shared.__version__)

    @app.get("/api/models")
    async def models() -> list[Model]:
        """What is stored, and which of it answers here."""
        tasks = {stored.name: task for task, stored in worker.models.items()}
        return [Model(task=tasks.get(name), name=name, figure=record.get("figure", {}), bytes=size)
                for name, record, size in described_models()]

    @app.post("/api/digit", responses=REFUSED, openapi_extra=PICTURE_BODY, dependencies=[content_type(*PICTURES)])
    async def digit(request: Request) -> Digit:
        """Read a handwritten digit, a PNG or JPEG picture of any size, dark on light or light on dark."""
        return await worker.answer(worker.digit, await request.body())

    @app.post("/api/photo", responses=REFUSED, openapi_extra=PICTURE_BODY, dependencies=[content_type(*PICTURES)])
    async def photo(request: Request) -> Photo:
        """Say which of ten things a photograph shows, and which pixels the answer hangs on."""
        return await worker.answer(worker.photo, await request.body())

    written_lines = {"description": "Lines of JSON as they come: a Start, a Token each, an End", "model": Start | Token | End}

    @app.post("/api/generate", status_code=200, response_class=Streamed, responses={**REFUSED, 200: written_lines},
              dependencies=[content_type("application/json")])
    async def write(request: Prompt):
        """Continue a text. The answer comes line by line; hanging up ends the writing."""
        stored = worker.stored("text")
        try:
            ids = prompt_ids(stored, request.prompt)
        except Failure as error:
            raise HTTPException(422, str(error)) from error
        worker.take_place()
        return Streamed(worker.lines(stored, ids, request), worker.leave)


# ---- processes ----


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which starts a worker anew when one dies; it remembers whether it was interrupted by hand."""

    interrupted = False

    def handle_int(self):
        """Ctrl-C."""
        self.interrupted = True
        super().handle_int()


def serve(host="127.0.0.1", port=8000, workers=1, settings=None, announce=print):
    """Serve until SIGTERM or Ctrl-C, which finish what is running. With port 0 the system chooses a free one.

    A supervisor, this process, starts `workers` processes, and starts anew what dies. `announce` is called with the address
    once it is bound. Raises OSError where the address cannot be had, KeyboardInterrupt after Ctrl-C.
    """
    settings = settings or Settings()
    os.environ["COURSE_SERVICE"] = json.dumps(asdict(settings))
    for name in ("COURSE_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # requests share the cores already: each is computed by one thread
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listening:
        config = uvicorn.Config(
            "shared.service:create_app", factory=True, host=host, port=port, workers=workers, log_level="warning",
            access_log=False, server_header=False, timeout_graceful_shutdown=int(settings.seconds) + 5,
            timeout_worker_healthcheck=30)
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listening.getsockname()[1]}")
        supervisor = Supervisor(config, [listening])
        supervisor.run()
    if supervisor.interrupted:
        raise KeyboardInterrupt
