"""The tensor engine's shapes, types, values, views and messages, each rule where small engines are known to go wrong."""

import copy

import numpy as np
import pytest

from shared import tensor as engine
from shared.tensor import (
    Tensor,
    arange,
    as_tensor,
    cat,
    chunk,
    einsum,
    eye,
    from_numpy,
    full,
    full_like,
    gather,
    linspace,
    manual_seed,
    no_grad,
    ones,
    ones_like,
    pad,
    rand,
    randint,
    randn,
    randn_like,
    split,
    stack,
    tensor,
    unbroadcast,
    where,
    zeros,
    zeros_like,
)

LARGE = np.array([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])


def leaf(*shape, seed=0, dtype="f8"):
    """A random leaf that requires a gradient."""
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype), requires_grad=True)


def gradient(function, *leaves):
    """The gradients of the sum of a function."""
    function(*leaves).sum().backward()
    return [x.grad for x in leaves]


class TestShapes:
    @pytest.mark.parametrize(
        ("a", "b"),
        [((3, 1), (1, 4)), ((4,), (2, 3, 4)), ((2, 1, 1), (3, 1)), ((), (2, 3)), ((1,), ()), ((0, 3), (1, 3)),
            ((0, 1), (1, 4)), ((1,), (0,))],
    )
    def test_gradients_have_the_shape_of_their_inputs_and_the_sum_of_what_was_broadcast(self, a, b):
        x, y = leaf(*a, seed=1), leaf(*b, seed=2)
        shape = np.broadcast_shapes(a, b)
        found = gradient(lambda x, y: x * y, x, y)
        for one, other, g in ((x, y, found[0]), (y, x, found[1])):
            assert g.shape == one.shape
            expected = np.zeros(one.shape)
            other_values = np.broadcast_to(other.data, shape)
            places = np.broadcast_to(np.arange(one.data.size).reshape(one.shape), shape)
            for place, value in zip(places.ravel(), other_values.ravel(), strict=True):  # a loop over what was repeated
                expected.reshape(-1)[place] += value
            np.testing.assert_allclose(g, expected, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize(
        "shape", [(9,), (7, 9), (1, 7, 9), (1, 1, 9), (1, 9), (7, 1), (1, 7, 1), (2500, 7, 1), (), (1, 1, 1)])
    def test_unbroadcast_of_a_large_gradient(self, shape):
        g = np.random.default_rng(0).normal(size=(2500, 7, 9))  # large enough for the way through a product with ones
        axes = (*range(3 - len(shape)), *(3 - len(shape) + i for i, n in enumerate(shape) if n == 1))
        for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4), (np.float16, 0.5)):
            found = unbroadcast(g.astype(dtype), shape)
            assert found.shape == shape and found.dtype == dtype
            np.testing.assert_allclose(found, g.sum(axes).reshape(shape), rtol=tolerance, atol=100 * tolerance)
        with pytest.raises(ValueError, match=r"\(2500, 7, 9\).*\(8,\)"):
            unbroadcast(g, (8,))

    def test_tensors_without_axes(self):
        x = leaf()
        y = (x * 2.0 + x).exp().sum()
        assert y.shape == () == y.data.shape and isinstance(y.data, np.ndarray)
        y.backward()
        assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()
        np.testing.assert_allclose(x.grad, 3 * np.exp(3 * x.data))
        for operation in (engine.relu, engine.neg, engine.abs, lambda x: x[()], lambda x: x.reshape(1)[0], lambda x: x.T):
            assert isinstance(operation(x).data, np.ndarray)

    @pytest.mark.parametrize("a", [(3,), (2, 3), (4, 2, 3), (5, 1, 2, 3)])
    @pytest.mark.parametrize("b", [(3,), (3, 6), (4, 3, 6), (5, 4, 3, 6), (1, 3, 6)])
    def test_matmul_in_every_combination(self, a, b):
        x, y = leaf(*a, seed=1), leaf(*b, seed=2)
        z = x @ y
        np.testing.assert_allclose(z.data, x.data @ y.data, rtol=1e-13)
        upstream = np.random.default_rng(3).normal(size=z.shape)
        z.backward(upstream)
        wide = lambda v, row: v[None] if row and v.ndim == 1 else v[:, None] if v.ndim == 1 else v
        u = upstream
        u = u[..., None, :] if x.ndim == 1 and y.ndim > 1 else u
        u = u[..., None] if y.ndim == 1 else u
        u = u[..., None, :] if x.ndim == 1 and y.ndim == 1 else u
        by_x = np.einsum("...ik,...jk->...ij", u, wide(y.data, False))
        by_y = np.einsum("...ij,...ik->...jk", wide(x.data, True), u)
        for leaf_, d, axis in ((x, by_x, -2), (y, by_y, -1)):
            d = d.sum(axis) if leaf_.ndim == 1 else d
            d = d.sum(tuple(range(d.ndim - leaf_.ndim))) if d.ndim > leaf_.ndim else d
            d = d.sum(tuple(i for i in range(d.ndim) if leaf_.shape[i] == 1 != d.shape[i]), keepdims=True)
            np.testing.assert_allclose(leaf_.grad, d, rtol=1e-12, atol=1e-12)

    def test_dim_negative_or_a_tuple(self):
        x = leaf(2, 3, 4)
        for dim in (0, -1, (0, 2), (-1, 1), [1, 2], None):
            axis = tuple(dim) if isinstance(dim, list) else dim
            np.testing.assert_allclose(x.sum(dim=dim).data, x.data.sum(axis))
            np.testing.assert_allclose(x.mean(dim=dim, keepdim=True).data, x.data.mean(axis, keepdims=True))
        assert x.sum(-1).shape == (2, 3) and x.sum((0, 1), keepdim=True).shape == (1, 1, 4)
        assert x.unsqueeze(-1).shape == (2, 3, 4, 1) and x.transpose(-1, 0).shape == (4, 3, 2)

    def test_repeated_indices_add_up(self):
        x = leaf(4, 2)
        (g,) = gradient(lambda x: x[np.array([1, 1, 1, 3])], x)
        assert g.tolist() == [[0, 0], [3, 3], [0, 0], [1, 1]]
        x = leaf(4, 2)
        (g,) = gradient(lambda x: x[[0, 0, 3], [1, 1, 0]], x)
        assert g.tolist() == [[0, 2], [0, 0], [0, 0], [1, 0]]
        x = leaf(4)
        (g,) = gradient(lambda x: gather(x, 0, tensor([2, 2, -1 + 1])), x)
        assert g.tolist() == [1, 0, 2, 0]

    def test_many_repeated_rows_add_up_as_in_a_loop(self):
        rng = np.random.default_rng(0)
        table, rows = leaf(10, 3), rng.integers(-10, 10, (40, 5))
        upstream = rng.normal(size=(40, 5, 3))
        table[rows].backward(upstream)
        expected = np.zeros((10, 3))
        for place in np.ndindex(rows.shape):
            expected[rows[place]] += upstream[place]
        np.testing.assert_allclose(table.grad, expected, rtol=1e-12, atol=1e-12)

    def test_many_places_named_by_a_mask(self):
        x = leaf(12, 10)
        (g,) = gradient(lambda x: x[x.data > 0], x)
        np.testing.assert_array_equal(g, x.data > 0)

    def test_backward_of_more_than_one_number_needs_a_gradient(self):
        with pytest.raises(RuntimeError, match=r"backward.*\(2,\).*gradient"):
            leaf(2).exp().backward()
        x = leaf(1, 1)
        x.exp().backward()  # one number is enough, whatever its axes
        assert x.grad.shape == (1, 1)

    def test_size_0(self):
        x = leaf(0, 3)
        (g,) = gradient(lambda x: (x.exp() * 2.0).sum(dim=0), x)
        assert g.shape == (0, 3)
        assert zeros(0, 3).sum().item() == 0 and np.isnan(zeros(0).mean().item())
        assert cat([zeros(0, 2), ones(1, 2)]).shape == (1, 2)
        assert (ones(2, 0) @ ones(0, 3)).tolist() == [[0.0] * 3] * 2


class TestTypes:
    def test_lists_become_float32_or_int64(self):
        for data, dtype in [
            ([1.0, 2.0], "f4"), ([1, 2], "i8"), ([1, 2.5], "f4"), (3, "i8"), (3.5, "f4"), ([True, False], "?"),
            ([[]], "f4"), (True, "?"),
        ]:  # fmt: skip
            assert tensor(data).dtype == dtype == Tensor(data).dtype
        assert tensor(np.array([1.0])).dtype == "f8" and tensor(np.ones(2, "f2")).dtype == "f2"
        assert tensor(np.float64(2)).dtype == "f8"  # asked for
        assert tensor(np.ones(2, ">f4")).dtype.isnative
        assert tensor([1, 2], dtype="f8").dtype == "f8"

    @pytest.mark.parametrize("scalar",
        [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2), np.array(2.5), np.array(2), np.bool_(1)])
    def test_a_number_does_not_widen_float32(self, scalar):
        x = tensor([1.0, 2.0], requires_grad=True)
        for y in (x + scalar, scalar + x, x - scalar, scalar - x, x * scalar, scalar * x, x / scalar, scalar / x,
            x**scalar, scalar**x,
                  x % scalar, engine.maximum(x, scalar), where(x > 1, x, scalar), x.clamp(min=scalar),
                  x.masked_fill(x > 1, scalar)):  # fmt: skip
            assert y.dtype == np.float32
            x.grad = None
            y.sum().backward()
            assert x.grad.dtype == np.float32
        assert (ones(2, dtype="f2") * scalar).dtype == np.float16

    def test_the_same_without_axes(self):
        x = tensor(1.5, requires_grad=True)
        for y in (x + 1, x * 2.5, np.float64(2) * x, x / 3, x**2, x**0.5, 2**x, x.mean(), x.var(correction=0), x.sqrt(),
            x.logsumexp(dim=0)):
            assert y.dtype == np.float32, y

    def test_an_array_of_float64_does_widen(self):
        assert (ones(2) + Tensor(np.ones(2))).dtype == np.float64
        assert (ones(2) + Tensor(np.array(1.0))).dtype == np.float32  # without axes it counts as a number

    def test_integers_and_float32(self):
        whole = arange(3)
        assert (whole + ones(3)).dtype == np.float32
        assert (whole / whole).dtype == np.float32 and (whole / 2).dtype == np.float32 and (whole * 2.5).dtype == np.float32
        assert whole.exp().dtype == np.float32 and whole.float().mean().dtype == np.float32
        assert (whole + 1).dtype == np.int64 and whole.sum().dtype == np.int64 and (whole > 1).sum().dtype == np.int64
        assert (whole > 1).dtype == bool
        assert whole.float().softmax(dim=0).dtype == np.float32
        assert where(whole > 1, 2.5, 0.0).dtype == np.float32 == where(whole > 1, whole, 0.5).dtype
        assert einsum("i,i->", whole, ones(3)).dtype == np.float32 == einsum("i,->i", whole, 0.5).dtype

    def test_integers_cannot_require_gradients(self):
        for make in (lambda: tensor([1, 2], requires_grad=True), lambda: Tensor([True], requires_grad=True),
                     lambda: arange(3).requires_grad_(), lambda: zeros(2, dtype="i8", requires_grad=True)):  # fmt: skip
            with pytest.raises(RuntimeError, match=r"requires_grad.*floating-point.*(int64|bool)"):
                make()
        x = leaf(3)
        assert not x.long().requires_grad and not x.argmax(dim=0).requires_grad and not (x > 0).requires_grad
        assert not x.max(dim=0).indices.requires_grad

    def test_conversions(self):
        x = tensor([1.7, -2.3])
        assert x.long().tolist() == [1, -2] and x.int().dtype == "i4" and x.bool().tolist() == [True, True]
        assert x.double().dtype == "f8" and x.half().dtype == "f2" and x.to("f4") is x and x.astype("f8").dtype == "f8"
        assert x.to("cpu") is x

    def test_factories(self):
        assert {f(2).dtype for f in (zeros, ones, rand, randn, eye)} == {np.dtype("f4")}
        assert zeros(2, 3).shape == zeros((2, 3)).shape == zeros([2, 3]).shape == (2, 3)
        assert arange(3).tolist() == [0, 1, 2] and arange(1.0, 2.0, 0.5).dtype == "f4" and linspace(0, 1,
            3).tolist() == [0, 0.5, 1]
        assert full((2,), 3).dtype == "i8" and full((2,), 3.0).dtype == "f4" and full((2,), True).dtype == "?"
        x = arange(3)
        assert zeros_like(x).dtype == "i8" and ones_like(x).tolist() == [1, 1, 1] and full_like(x, 4).tolist() == [4, 4, 4]
        assert randn_like(ones(2, 3)).shape == (2, 3)
        assert randint(3, (100,)).dtype == "i8" and set(randint(3, (100,)).tolist()) == {0, 1, 2} and randint(5, 6,
            (2,)).tolist() == [5, 5]
        assert zeros(2, requires_grad=True).requires_grad and randn(2, requires_grad=True).is_leaf

    def test_random_numbers_start_again_from_a_seed(self):
        draw = lambda: np.concatenate([t.data.ravel() for t in (rand(4), randn(2, 3), randint(9, (5,)))])
        manual_seed(3)
        first = draw()
        second = draw()
        manual_seed(3)
        np.testing.assert_array_equal(draw(), first)
        assert not np.array_equal(first, second)
        own = np.random.default_rng(5)
        state = engine.default_generator().bit_generator.state
        rand(3, generator=own)
        assert engine.default_generator().bit_generator.state == state


class TestValues:
    def test_extremes(self):
        x = Tensor(LARGE, requires_grad=True)
        for name, expected in {
            "sigmoid": [0, np.exp(-100) / (1 + np.exp(-100)), 1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-1)), 1, 1],
            "tanh": np.tanh(LARGE),
        }.items():
            y = getattr(x, name)()
            np.testing.assert_allclose(y.data, expected, rtol=1e-12)
            x.grad = None
            y.sum().backward()
            assert np.isfinite(x.grad).all()
        for dtype in ("f4", "f8"):
            x = Tensor(LARGE.astype(dtype), requires_grad=True)
            for y in (x.softmax(dim=0), x.log_softmax(dim=0), x.logsumexp(dim=0), (-x).softmax(dim=0),
                (-x).logsumexp(dim=0), x.sigmoid()):
                x.grad = None
                assert np.isfinite(y.data).all()
                y.sum().backward()
                assert np.isfinite(x.grad).all() and x.grad.dtype == dtype
            assert x.logsumexp(dim=0).item() == 1e4 and x.softmax(dim=0).tolist() == [0] * 6 + [1]
            assert x.log_softmax(dim=0).tolist()[0] == -2e4  # not the log of a rounded 0

    def test_softmax_of_equal_huge_numbers(self):
        x = Tensor(np.full((2, 4), 1e4), requires_grad=True)
        assert x.softmax(dim=1).tolist() == [[0.25] * 4] * 2
        np.testing.assert_allclose(x.logsumexp(dim=1).data, 1e4 + np.log(4), rtol=1e-15)

    def test_minus_infinity_is_masked_out(self):
        x = Tensor(np.array([[0.0, -np.inf, 0.0], [-np.inf, -np.inf, -np.inf]]), requires_grad=True)
        assert x.softmax(dim=1).tolist()[0] == [0.5, 0, 0.5] and np.isnan(x.softmax(dim=1).data[1]).all()
        y = x.logsumexp(dim=1)
        np.testing.assert_allclose(y.data, [np.log(2), -np.inf])
        y[0].backward()
        assert x.grad.tolist()[0] == [0.5, 0, 0.5]

    def test_log_of_zero_is_minus_infinity_without_a_hidden_epsilon(self):
        x = tensor([0.0, 1.0, -1.0, 1e-30], requires_grad=True)
        y = x.log()
        assert y.data[0] == -np.inf and y.data[1] == 0 and np.isnan(y.data[2])
        np.testing.assert_allclose(y.data[3], np.log(np.float32(1e-30)), rtol=1e-6)
        y.backward(np.ones(4))
        assert x.grad[0] == np.inf and x.grad[1] == 1
        x = tensor([0.0, -0.0, 4.0, 0.0], requires_grad=True)
        y = x.sqrt()
        y.backward(np.array([1.0, 1.0, 1.0, 2.0]))
        assert x.grad[0] == np.inf and x.grad[2] == 0.25
        assert (1 / zeros(1)).item() == np.inf and (tensor([0.0]) ** -1.0).item() == np.inf

    def test_ties(self):
        def by(function, *rows):
            x = Tensor(np.array(rows), requires_grad=True)
            return gradient(function, x)[0].tolist()

        tied = [1.0, 3.0, 3.0, 3.0]
        assert by(lambda x: x.max(), tied) == by(lambda x: x.amax(dim=1), tied) == [[0, 1 / 3, 1 / 3, 1 / 3]]
        assert by(lambda x: x.max(dim=1).values, tied) == [[0, 1, 0, 0]]  # the first, whose index is given
        assert by(lambda x: x.min(dim=1).values, [2.0, 2.0]) == [[1, 0]] and by(lambda x: x.min(), [2.0, 2.0]) == [[0.5, 0.5]]
        assert by(lambda x: x.max(), [5.0, 5.0], [5.0, 1.0]) == [[1 / 3, 1 / 3], [1 / 3, 0]]
        assert tensor([3.0, 3.0]).argmax().item() == 0 and tensor([[1.0, 1.0]]).max(dim=1).indices.tolist() == [0]
        a, b = Tensor(np.array([1.0, 2.0]), requires_grad=True), Tensor(np.array([1.0, 1.0]), requires_grad=True)
        assert [g.tolist() for g in gradient(engine.maximum, a, b)] == [[0.5, 1], [0.5, 0]]

    def test_kinks(self):
        x = lambda *numbers: Tensor(np.array(numbers), requires_grad=True)
        assert gradient(engine.relu, x(-1.0, 0.0, -0.0, 2.0))[0].tolist() == [0, 0, 0, 1]
        assert gradient(engine.abs, x(-1.0, 0.0, 2.0))[0].tolist() == [-1, 0, 1]
        assert gradient(lambda x: x.clamp(0.0, 1.0), x(-1.0, 0.0, 0.5, 1.0, 2.0))[0].tolist() == [0, 1, 1, 1, 0]
        assert gradient(lambda x: x**0, x(0.0, 2.0))[0].tolist() == [0, 0]
        assert gradient(lambda x: x**1.0, x(0.0, 2.0))[0].tolist() == [1, 1]
        assert gradient(lambda x: 0.0**x, x(0.0, 0.5, 1.0, 2.0))[0].tolist() == [0, 0, 0, 0]

    def test_where_lets_no_nan_through_the_branch_that_was_taken(self):
        x = Tensor(np.array([0.0, 4.0]), requires_grad=True)
        y = where(x > 0, x, 1.0).sqrt()
        assert gradient(lambda x: where(x > 0, y, 0.0), x)[0].tolist() == [0, 0.25]

    def test_nan_is_never_hidden(self):
        x = tensor([1.0, float("nan")], requires_grad=True)
        for y in (x.relu(), x.max(), x.sum(), engine.maximum(x, 0.0), x.clamp(0.0, 1.0), x.softmax(dim=0)):
            assert np.isnan(y.data).any()

    def test_variance_of_large_numbers(self):
        x = Tensor(np.array([1e8, 1e8 + 1, 1e8 + 2]))
        assert x.var().item() == 1 and x.std().item() == 1  # not a difference of squares
        assert tensor([5.0]).var(correction=0).item() == 0 and np.isnan(tensor([5.0]).var().item())

    def test_no_warning_reaches_the_reader(self, recwarn):
        with np.errstate(all="raise"):
            (zeros(2) / 0 + tensor([1e38, -1e38]) * 1e10 + zeros(2).log() + tensor([-1.0, 1.0]).sqrt()).sum()
            x = zeros(2, requires_grad=True)
            (x.log() * 0.0 + x.sqrt()).sum().backward()
        assert not recwarn.list


class TestViews:
    def test_what_can_be_a_view_is_one(self):
        x = leaf(3, 1, 4)
        for name, view in {
            "reshape": x.reshape(4, 3), "view": x.view(-1), "permute": x.permute(2, 0, 1),
            "transpose": x.transpose(0, 2), "T": x.T,
            "mT": x.mT, "expand": x.expand(3, 5, 4), "squeeze": x.squeeze(), "unsqueeze": x.unsqueeze(0), "flatten": x.flatten(),
            "slice": x[1:], "integer": x[0], "one number": x[0, 0, 0], "None": x[None], "...": x[..., 1], "detach": x.detach(),
            "split": split(x, 2)[1], "chunk": chunk(x, 2, dim=2)[1], "requires_grad_": x.requires_grad_(),
            "contiguous": x.contiguous(),
            "numpy": x.detach().numpy(), "iter": next(iter(x)), "as_tensor": as_tensor(x), "stride": x[:, :, ::-2],
        }.items():  # fmt: skip
            assert np.shares_memory(view if isinstance(view, np.ndarray) else view.data, x.data), name

    def test_what_must_be_a_copy_is_one(self):
        x = leaf(3, 4)
        for name, copied in {
            "clone": x.clone(), "flip": x.flip(0), "array": x[np.array([0, 1])], "add": x + 0.0, "pos": x * 1.0,
            "tensor": tensor(x.data),
            "Tensor": Tensor(x.data), "cat": cat([x]), "stack": stack([x]), "masked_fill": x.masked_fill(x > 9, 0.0),
            "pad": pad(x, pad=()),
            "cumsum": x.cumsum(dim=0), "sum": x.sum(dim=()), "deepcopy": copy.deepcopy(x), "to": x.float(),
            "relu": x.relu(), "einsum": einsum("ij,->ij", x, 1.0),
        }.items():  # fmt: skip
            assert not np.shares_memory(copied.data, x.data), name

    def test_zero_copy_only_where_asked(self):
        array = np.ones(3, "f4")
        for make, shared_ in [(tensor, False), (Tensor, False), (from_numpy, True), (as_tensor, True),
            (lambda a: Tensor(a, copy=False), True)]:
            assert np.shares_memory(make(array).data, array) is shared_

    def test_view_refuses_to_copy(self):
        with pytest.raises(RuntimeError, match=r"view.*\(2, 3\).*reshape"):
            ones(3, 2).T.view(6)
        assert ones(3, 2).T.reshape(6).shape == (6,)

    def test_gradients_flow_through_views(self):
        x = leaf(2, 3)
        np.testing.assert_array_equal(gradient(lambda x: x.T[1:, ::-1].flatten()[::2] * 2.0, x)[0], [[0, 0, 0], [0, 2, 2]])


class TestPython:
    def test_protocols(self):
        x = tensor([[1.0, 2.0], [3.0, 4.0]])
        assert len(x) == 2 and [row.tolist() for row in x] == [[1, 2], [3, 4]] and x.numel() == 4 and x.size() == (2,
            2) == x.shape
        assert float(x[0, 0]) == 1 and int(x[1, 1]) == 4 and bool(x[0, 0]) and [10, 20, 30][tensor(1)] == 20
        assert x.tolist() == [[1, 2], [3, 4]] and np.asarray(x).tolist() == x.tolist() and x.ndim == x.dim() == 2
        assert len({x, x.detach()}) == 2
        assert (np.ones(2, "f4") * x).tolist() == x.tolist() and isinstance(np.ones(2, "f4") * x, Tensor)
        assert isinstance(np.ones((2, 2), "f4") @ x, Tensor) and (5 - x).tolist() == [[4, 3], [2, 1]]
        for scalar in (np.float64(2), np.int64(2), np.float32(2)):
            assert isinstance(scalar * x, Tensor) and (scalar * x).dtype == np.float32

    def test_repr(self):
        assert repr(tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
        assert repr(tensor([1, 2], dtype="i4")) == "tensor([1, 2], dtype=int32)"
        assert "requires_grad=True" in repr(leaf(2)) and "grad_fn=<exp>" in repr(leaf(2).exp())

    def test_deepcopy(self):
        x = leaf(2)
        (x * 2.0).sum().backward()
        twin = copy.deepcopy(x)
        twin.data += 1
        twin.grad += 1
        assert x.grad.tolist() == [2, 2] and twin.requires_grad and not np.array_equal(x.data, twin.data)
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(x.exp())

    def test_grad_can_be_set_and_cleared(self):
        x = leaf(2, dtype="f4")
        x.grad = np.array([1.0, 2.0])
        assert x.grad.dtype == np.float32
        x.grad = None
        assert x.grad is None
        with pytest.raises(ValueError, match=r"grad.*\(2,\).*\(3,\)"):
            x.grad = np.ones(3)
        assert x.grad is None
        with pytest.raises(RuntimeError, match="grad"):
            ones(2).grad = np.ones(2)

    def test_no_grad_spares_the_graph(self):
        x = leaf(2)
        with no_grad():
            y = x.exp() @ x
        assert y.grad_fn is None and y.is_leaf and not y.requires_grad


MESSAGES = [
    (lambda: ones(3, 4) @ ones(5, 6), ValueError, r"^matmul: \(3, 4\) @ \(5, 6\), inner sizes 4 and 5 differ$"),
    (lambda: ones(3, 4) @ ones(5, 4), ValueError, r"^matmul: \(3, 4\) @ \(5, 4\), inner sizes 4 and 5 differ$"),
    (lambda: ones(3) @ tensor(2.0), ValueError, r"^matmul: \(3,\) @ \(\)"),
    (lambda: ones(2, 3, 4) @ ones(3, 4, 5), ValueError, r"^matmul: \(2, 3, 4\) (@|and) \(3, 4, 5\)"),
    (lambda: ones(2, 3) + ones(2, 4), ValueError, r"^add: \(2, 3\) and \(2, 4\).*3 and 4 differ"),
    (lambda: ones(2, 3) + ones(4), ValueError, r"^add: \(2, 3\) and \(4,\): sizes 3 and 4 differ in dim -1$"),
    (lambda: ones(2, 3) > ones(2, 4), ValueError, r"^gt: \(2, 3\) and \(2, 4\)"),
    (lambda: where(ones(2) > 0, ones(3), 0.0), ValueError, r"^where: \(2,\) and \(3,\)"),
    (lambda: ones(2, 3).reshape(4, 2), ValueError, r"^reshape: \(2, 3\).*\(4, ?2\)"),
    (lambda: ones(2, 3).expand(3, 3), ValueError, r"^expand: .*\(2, ?3\).*\(3, ?3\)"),
    (lambda: ones(2, 3).permute(0), ValueError, r"^permute: \(2, 3\).*\(0,\)"),
    (lambda: ones(2, 3).permute(0, 0), ValueError, r"^permute: \(2, 3\)"),
    (lambda: ones(2, 3).sum(dim=2), IndexError, r"^sum: \(2, 3\).*2"),
    (lambda: ones(2, 3).softmax(dim=-3), IndexError, r"^softmax: \(2, 3\).*-3"),
    (lambda: ones(2, 3).max(dim=5), IndexError, r"^(max|argmax): \(2, 3\).*5"),
    (lambda: ones(2, 3).transpose(0, 4), IndexError, r"^transpose: \(2, 3\)"),
    (lambda: ones(2, 3)[2], IndexError, r"^getitem: \(2, 3\).*2"),
    (lambda: ones(2, 3)[0, 0, 0], IndexError, r"^getitem: \(2, 3\)"),
    (lambda: ones(0).max(), ValueError, r"^a?max: \(0,\)"),
    (lambda: cat([ones(2, 3), ones(2, 4)]), ValueError, r"^cat: \(2, 3\) and \(2, 4\).*dim 0"),
    (lambda: cat([ones(2, 3), ones(4, 3)], dim=-1), ValueError, r"^cat: \(2, 3\) and \(4, 3\) do not fit .*dim -1"),
    (lambda: cat([]), ValueError, r"^cat: "),
    (lambda: stack([ones(2), ones(3)]), ValueError, r"^stack: \(2,\) and \(3,\)"),
    (lambda: split(ones(5), [2, 2]), ValueError, r"^split: \(5,\).*\[2, 2\]"),
    (lambda: chunk(ones(5), 0), ValueError, r"^chunk: "),
    (lambda: pad(ones(3), pad=(1, 2, 3)), ValueError, r"^pad: \(3,\)"),
    (lambda: pad(ones(3), pad=(-2, -2)), ValueError, r"^pad: \(3,\) cannot lose as much as \(-2, -2\)"),
    (lambda: einsum("ij"), ValueError, r"^einsum: 'ij' names 1 operands, got 0"),
    (lambda: einsum("ij->i", ones(2, 3, 4)), ValueError, r"^einsum: .*'ij' does not fit .*3 axes"),
    (lambda: einsum("...ijk->i", ones(2, 3)), ValueError, r"^einsum: .*'...ijk' does not fit .*2 axes"),
    (lambda: einsum("ij,jk->ik", ones(2, 3), ones(4, 5)), ValueError, r"^einsum: .*ij,jk->ik.* j .*3 and 4"),
    (lambda: gather(ones(2, 3), 0, tensor([0])), ValueError, r"^gather: \(2, 3\)"),
    (lambda: ones(2).masked_fill(ones(2), 0.0), TypeError, r"^masked_fill: .*booleans.*float32"),
    (lambda: ones(3).clamp(), ValueError, r"^clamp: "),
    (lambda: arange(3).mean(), TypeError, r"^mean: .*int64"),
    (lambda: tensor([[1.0], [1.0, 2.0]]), ValueError, r"^tensor: .*equal length"),
    (lambda: tensor("words"), TypeError, r"^tensor: .*str"),
    (lambda: tensor([1j]), TypeError, r"^tensor: .*complex"),
    (lambda: ones(2) + "1", TypeError, r"^add: expected a tensor.*str"),
    (lambda: "1" - ones(2), TypeError, r"^sub: expected a tensor.*str"),
    (lambda: (ones(2) > 0) - 1.0, TypeError, r"^sub: booleans"),
    (lambda: 1.0 - (ones(2) > 0), TypeError, r"^sub: booleans"),
    (lambda: arange(1.0, 0.5), ValueError, r"^arange: .*1 .*from 1.0 to 0.5"),
    (lambda: arange(0, 5, -1), ValueError, r"^arange: .*-1 .*from 0 to 5"),
    (lambda: ones(2) * None, TypeError, r"^mul: "),
    (lambda: ones(2).item(), ValueError, r"^item: .*\(2,\)"),
    (lambda: bool(ones(2)), ValueError, r"^bool: .*\(2,\)"),
    (lambda: leaf(2).numpy(), RuntimeError, r"^numpy: .*detach"),
    (lambda: len(tensor(1.0)), TypeError, r"^len: "),
    (lambda: ones(2, 3).squeeze(5), IndexError, r"^squeeze: \(2, 3\).*5"),
    (lambda: from_numpy([1.0]), TypeError, r"^from_numpy: .*list"),
    (lambda: ones(2).retain_grad(), RuntimeError, r"^retain_grad: "),
]  # fmt: skip


@pytest.mark.parametrize(("action", "kind", "pattern"), MESSAGES, ids=[pattern for *_, pattern in MESSAGES])
def test_an_error_names_the_operation_and_what_was_wrong(action, kind, pattern):
    with pytest.raises(kind, match=pattern):
        action()


def test_every_public_name_is_documented():
    missing = [name for name in engine.__all__ if callable(getattr(engine, name)) and not getattr(engine, name).__doc__]
    methods = [name for name, thing in vars(Tensor).items() if not name.startswith("_") and not getattr(thing, "__doc__", "")]
    assert (missing, [name for name in methods if name not in Tensor.__slots__]) == ([], [])


DEFAULTS_AND_EDGES = {  # each fails for a defect that the other tests let pass; see `mutation.md`
    "factories do not require gradients": (
        lambda: [make(2).requires_grad for make in (zeros, ones, engine.empty, eye, rand, randn)], [False] * 6),
    "max and min drop the axis": (lambda: [ones(2, 3).max(1).values.shape, ones(2, 3).min(1).values.shape], [(2,), (2,)]),
    "pad fills with zeros": (lambda: pad(ones(1), pad=(1, 2)).tolist(), [0, 1, 0, 0]),
    "allclose takes 1e-5 of the value, and 1e-8": (
        lambda: [engine.allclose(Tensor(a), Tensor(b)) for a, b in ((1, 1 + 9e-6), (1, 1 + 2e-5), (0, 9e-9), (0, 2e-8))],
        [True, False, True, False]),
    "arange downwards": (lambda: arange(3, 0, -1).tolist(), [3, 2, 1]),
    "flip without axes": (lambda: [tensor(3.0).flip(dim).item() for dim in (0, -1)], [3, 3]),
    "squeeze without axes": (lambda: [tensor(3.0).squeeze(dim).item() for dim in (0, -1)], [3, 3]),
    "split along the last axis": (lambda: [part.shape for part in zeros(2, 7).split(3, dim=1)], [(2, 3), (2, 3), (2, 1)]),
    "split of nothing": (lambda: [part.shape for part in zeros(0).split(2)], [(0,)]),
    "cat of many": (lambda: cat([leaf(1)] * 300).shape, (300,)),
    "einsum of a list": (lambda: einsum("ij->ji", [ones(2, 3)]).shape, (3, 2)),
    "softmax over columns": (lambda: zeros(2, 4).softmax(dim=-2).tolist(), [[0.5] * 4] * 2),
    "std of equal numbers, and of ones too small to square": (
        lambda: gradient(lambda x: x.std(1), Tensor([[4.0, 4.0], [1e-30, 3e-30]], requires_grad=True))[0].tolist(),
        [[0, 0], [0, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS_AND_EDGES)
def test_defaults_and_edges(name):
    action, expected = DEFAULTS_AND_EDGES[name]
    assert action() == expected
