"""The stored models, as the program and the service use them: what there is, which one is for what, and what a prompt becomes."""

import json

from shared.deployment import stored_models

__all__ = ["DIGIT_MODEL", "PHOTO_MODEL", "Failure", "default_text_model", "described_models", "prompt_ids"]

DIGIT_MODEL, PHOTO_MODEL = "mnist_cnn", "cifar10_cnn"


class Failure(RuntimeError):
    """Something that the user asked for cannot be done; the message, one line, says why."""


def described_models():
    """Yield (name, record, size of the weights in bytes) of each stored model."""
    for name, path in sorted(stored_models().items()):
        yield name, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), path.stat().st_size


def default_text_model(name=None):
    """The name of the text model: the one asked for, else the best one stored. Raises Failure where there is none."""
    stored = stored_models()
    for candidate in [name] if name else ["shakespeare", "shakespeare_small"]:
        if candidate in stored:
            return candidate
    raise Failure(f"there is no model {name or 'of text'} here; stored are {', '.join(sorted(stored)) or 'none'}")


def prompt_ids(stored, prompt):
    """The ids of a prompt for a stored model of text. Raises Failure where it is empty or holds what the model does not know."""
    if stored.tokenizer is None:
        raise Failure(f"{stored.name} is no model of text")
    if not prompt:
        raise Failure("the prompt is empty; it needs at least one character to continue")
    try:
        return stored.tokenizer.encode(prompt)
    except ValueError as error:
        reason = str(error).removeprefix("encode: ").partition("; unknown=")[0]
        raise Failure(f"prompt: {reason} of {stored.name}") from error
