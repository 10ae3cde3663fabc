"""Batches shared out to processes: the gradients are those of one process, failures are told, nobody is left behind."""

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest

from shared.parallel import DataParallel, ParallelTrainer
from shared.scalar_mlp import SGD, Module
from shared.tensor import Tensor, manual_seed
from shared.tensor_mlp import Dropout, Linear, Sequential, Trainer, mse_loss
from shared.transformers import GPT, GPTConfig, next_token_loss


def gpt():
    """A small GPT, whose embedding and last layer are one parameter, and a batch of 7 rows."""
    ids = np.random.default_rng(0).integers(0, 11, (7, 6))
    return GPT(GPTConfig(11, block_size=5, n_layer=1, n_head=2, n_embd=8), generator=0), (ids[:, :-1], ids[:, 1:])


def rows(count, width=3):
    """Random inputs (count, width) and targets (count, 2)."""
    rng = np.random.default_rng(1)
    return Tensor(rng.standard_normal((count, width), np.float32)), Tensor(rng.standard_normal((count, 2), np.float32))


class TwoHeads(Module):
    """A model that does not use one of its layers."""

    def __init__(self):
        self.used, self.idle = Linear(3, 2), Linear(3, 2)

    def forward(self, x):
        """The layer that is used; x holds a number above 100 where this is to fail in a helper."""
        if x.data.max() > 100:
            raise ValueError("the number is too large")
        return self.used(x)


def gradients(model):
    """Copies of all gradients by name."""
    return {name: None if p.grad is None else p.grad.copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("processes", [2, 3])
def test_loss_and_gradients_are_those_of_one_process_though_the_shares_differ(processes):
    model, batch = gpt()
    loss = next_token_loss(model(batch[0]), batch[1])
    loss.backward()
    expected = gradients(model)
    model.zero_grad()
    with DataParallel(model, next_token_loss, processes) as parallel:
        assert parallel.backward(*batch) == pytest.approx(loss.item(), rel=1e-6)
        found = gradients(model)
        parallel.backward(*batch)  # gradients add up, as those of backward() do
        twice = gradients(model)
    assert list(found) == list(expected)
    for name, g in expected.items():
        np.testing.assert_allclose(found[name], g, rtol=2e-5, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(twice[name], 2 * g, rtol=2e-5, atol=2e-7, err_msg=name)


def test_a_parameter_without_gradient_stays_without():
    model = TwoHeads()
    with DataParallel(model, mse_loss, 2) as parallel:
        parallel.backward(*rows(4))
    assert model.used.weight.grad is not None
    assert model.idle.weight.grad is None


@pytest.mark.parametrize(("count", "processes"), [(1, 3), (2, 3), (5, 1)])
def test_few_rows_and_few_processes(count, processes):
    manual_seed(0)
    model, batch = Linear(3, 2), rows(count)
    mse_loss(model(batch[0]), batch[1]).backward()
    expected = gradients(model)
    model.zero_grad()
    with DataParallel(model, mse_loss, processes) as parallel:
        parallel.backward(*batch)
    for name, g in gradients(model).items():
        np.testing.assert_allclose(g, expected[name], rtol=1e-5, err_msg=name)


def test_training_takes_the_same_steps_and_goes_on_after_an_interruption(tmp_path):
    def trainer(kind, folder, **options):
        manual_seed(0)
        model = Sequential(Linear(3, 8), Linear(8, 2))
        return kind(model, SGD(model.parameters(), 0.1, 0.9), mse_loss, folder=folder, **options)

    batches = [rows(6) for _ in range(3)]
    plain = trainer(Trainer, tmp_path / "plain")
    plain.fit(batches, epochs=4)
    whole = trainer(ParallelTrainer, tmp_path / "whole", processes=2)
    whole.fit(batches, epochs=4)
    first = trainer(ParallelTrainer, tmp_path / "halves", processes=2)
    first.fit(batches, epochs=2)
    second = trainer(ParallelTrainer, tmp_path / "halves", processes=2)
    assert second.resume()
    second.fit(batches, epochs=4)
    np.testing.assert_allclose(whole.history.losses, plain.history.losses, rtol=1e-5)
    for a, b, c in zip(plain.model.parameters(), whole.model.parameters(), second.model.parameters(), strict=True):
        np.testing.assert_allclose(b.data, a.data, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(b.data, c.data)


def test_dropout_in_the_helpers_follows_from_the_seed_and_is_off_in_evaluation():
    manual_seed(0)
    model, batch = Sequential(Linear(3, 50), Dropout(0.5), Linear(50, 2)), rows(8)
    with DataParallel(model, mse_loss, 2) as parallel:
        def loss(seed):
            manual_seed(seed)
            return parallel.backward(*batch)

        assert loss(1) == loss(1) != loss(2)
        model.eval()
        assert loss(1) == loss(2)


def test_what_goes_wrong_in_a_helper_is_raised_here_and_the_next_batch_is_served():
    model, (x, y) = TwoHeads(), rows(6)
    bad = x.data.copy()
    bad[5] = 1000  # in the last helper's share
    with DataParallel(model, mse_loss, 3) as parallel:
        for wrong in (bad, np.full_like(bad, 1000)):  # in one helper, and in all processes
            with pytest.raises((RuntimeError, ValueError), match="the number is too large"):
                parallel.backward(Tensor(wrong), y)
        model.zero_grad()
        expected = mse_loss(model(x), y).item()
        assert parallel.backward(x, y) == pytest.approx(expected, rel=1e-5)


def test_a_helper_that_ends_is_noticed():
    model = Linear(3, 2)
    with DataParallel(model, mse_loss, 2) as parallel:
        parallel.backward(*rows(4))
        os.kill(parallel._helpers[0].process.pid, signal.SIGTERM)
        parallel._helpers[0].process.join()
        with pytest.raises(RuntimeError, match="ended with exit code -15"):
            parallel.backward(*rows(4))


def test_after_the_end_the_parameters_have_memory_of_their_own_and_no_process_is_left():
    model = Linear(3, 2)
    before = model.weight.data.copy()
    parallel = DataParallel(model, mse_loss, 2)
    process, shared = parallel._helpers[0].process, model.weight.data
    model.weight.data[...] = 7
    parallel.close()
    shared[...] = 0
    assert (model.weight.data == 7).all()
    assert not process.is_alive()
    assert before.shape == model.weight.data.shape
    parallel.close()  # a second time does nothing


def test_what_cannot_be_sent_to_another_process_is_told_and_leaves_the_model_as_it_was():
    model = Linear(3, 2)
    model.weight.grad = np.ones((2, 3), np.float32)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match=r"pickle|local object"):
        DataParallel(model, lambda output, target: mse_loss(output, target), 2)
    assert model.weight.data.flags.owndata and model.bias.data.flags.owndata
    assert (model.weight.grad == 1).all()
    assert not multiprocessing.active_children()


def test_bad_use_is_told():
    with pytest.raises(ValueError, match="at least 1 process, got 0"):
        DataParallel(Linear(3, 2), mse_loss, 0)
    model = Linear(3, 2)
    with DataParallel(model, mse_loss, 2) as parallel:
        model.weight.data = model.weight.data.copy()
        with pytest.raises(RuntimeError, match="array was replaced"):
            parallel.backward(*rows(4))
