"""The exercises of chapter 06, their oracles, and the mistakes that learners make."""

import numpy as np

from shared import datasets
from shared.checks import Exercise, Mistake

OBJECTIVES = (
    "compute what a convolution gives, how large its map is and what it sees, and write it as one matrix product",
    "derive the gradient of a convolution in more than one way, and write it",
    "derive pooling and batch normalisation, and keep training apart from evaluation",
    "build networks whose depth helps instead of hurting",
    "train on pictures against a baseline, find what is wrong, and look inside",
)


# --- 06.1 Predict, then run -------------------------------------------------------------------------------------------


def three_layers(*, wide=True, far=True, jumps=True, late=False, grouped=True, dealt=False, biases=True, colours=3):
    """Side of the last map, side of the receptive field, parameters; the settings make the mistakes below."""
    side, field, jump, channels, parameters = 64, 1, 1, colours, 0
    for outputs, kernel, stride, padding, dilation, groups in ((32, 7, 2, 3, 1, 1), (64, 3, 1, 2, 2, 1), (64, 3, 2, 1, 1, 4)):
        side = (side + 2 * padding - (dilation if wide else 1) * (kernel - 1) - 1) // stride + 1
        field += (dilation if far else 1) * (kernel - 1) * (jump * stride if late else jump if jumps else 1)
        jump *= stride
        weights = outputs * channels * kernel**2 // (groups if grouped else 1) // (groups if dealt else 1)
        parameters += weights + (outputs if biases else 0)
        channels = outputs
    return side, field, parameters


PREDICT = Exercise(
    "06.1",
    "predict, then run",
    1,
    15,
    OBJECTIVES[0],
    expected=three_layers(),
    mistakes=[
        Mistake("the second layer's dilation is missing: its taps stand 2 apart, which changes its size and what it sees",
                three_layers(wide=False, far=False)),
        Mistake("the second layer's dilation is missing in its size: its kernel covers five places, not three",
                three_layers(wide=False)),
        Mistake("the second layer's dilation is missing in the field: its outer taps stand further apart, too",
                three_layers(far=False)),
        Mistake("the field grows in steps of the jump: after a stride of 2 one step is 2 pixels", three_layers(jumps=False)),
        Mistake("a layer's own stride moves the windows of the next layer, not its own taps: first add, then multiply the jump",
                three_layers(late=True)),
        Mistake("with groups=4 each output of the last layer sees a quarter of the channels", three_layers(grouped=False)),
        Mistake("groups=4 divides the channels that an output sees, and not the number of outputs as well",
                three_layers(dealt=True)),
        Mistake("a colour picture has three channels, so each kernel of the first layer has three slices",
                three_layers(colours=1)),
        Mistake("each output channel has a bias, which is a parameter, too", three_layers(biases=False)),
    ],
)


# --- 06.2 One product, one dimension ----------------------------------------------------------------------------------


def conv1d(x, weight, bias, stride, padding, dilation, *, around=None):
    """Convolution of sequences (N, C, L) with weight (O, C, K): (N, O, L'); `around` makes a mistake below."""
    padded = np.pad(x, ((0, 0), (0, 0), around or (padding, padding)))
    count = (padded.shape[2] - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    taps = np.arange(count)[:, None] * stride + np.arange(weight.shape[2]) * dilation  # (L', K)
    return np.einsum("ncik,ock->noi", padded[:, :, taps], weight) + bias[:, None]


def sequences(rng, with_bias=True):
    """Three cases, all sizes different, stride and dilation never equal."""
    for n, c, o, length, k, *setting in ((2, 3, 4, 11, 3, 2, 1, 1), (3, 2, 5, 13, 4, 1, 2, 2), (4, 5, 2, 16, 3, 3, 1, 2)):
        yield rng.normal(size=(n, c, length)), rng.normal(size=(o, c, k)), rng.normal(size=o), *setting


def stride_as_dilation(x, w, b, s, p, d):
    """Stride and dilation exchanged, where that fits."""
    return conv1d(x, w, b, d, p, s)


def windows_mixed(x, w, b, s, p, d):
    """The windows (N, C, L', K) made rows without moving the channels."""
    y = conv1d(x, w, 0 * b, s, p, d)
    padded = np.pad(x, ((0, 0), (0, 0), (p, p)))
    rows = padded[:, :, np.arange(y.shape[2])[:, None] * s + np.arange(w.shape[2]) * d].reshape(-1, w[0].size)
    return (rows @ w.reshape(len(w), -1).T + b).reshape(len(x), -1, len(w)).swapaxes(1, 2)


CONV1D = Exercise(
    "06.2",
    "one product, one dimension",
    2,
    25,
    OBJECTIVES[0],
    expected=conv1d,
    cases=lambda rng: list(sequences(rng)),
    mistakes=[
        Mistake("the kernel is turned: here tap 0 meets the first number of its window, as in a cross-correlation",
                lambda x, w, b, s, p, d: conv1d(x, w[:, :, ::-1], b, s, p, d)),
        Mistake("stride and dilation are exchanged: stride moves the window, dilation spreads its taps", stride_as_dilation),
        Mistake("the padding goes to both ends, `padding` zeros to each",
                lambda x, w, b, s, p, d: conv1d(x, w, b, s, p, d, around=(0, 2 * p))),
        Mistake("the bias is missing: one number for each output channel",
                lambda x, w, b, s, p, d: conv1d(x, w, 0 * b, s, p, d)),
        Mistake("the axes are (N, L', O); put the channels second",
                lambda x, w, b, s, p, d: conv1d(x, w, b, s, p, d).swapaxes(1, 2)),
        Mistake("right numbers at the wrong places: the product has a row for each window, so reshape it to (N, L', O), and "
                "only then put the channels second",
                lambda x, w, b, s, p, d: conv1d(x, w, b, s, p, d).swapaxes(1, 2).reshape(len(x), len(w), -1)),
        Mistake("the windows are mixed up: reshape counts on in memory, so bring the axes into the order (N, L', C, K) first",
                windows_mixed),
        Mistake("the padding is not used", lambda x, w, b, s, p, d: conv1d(x, w, b, s, 0, d)),
        Mistake("the dilation is not used", lambda x, w, b, s, p, d: conv1d(x, w, b, s, p, 1)),
    ],
)


# --- 06.3 And back ----------------------------------------------------------------------------------------------------


def conv1d_backward(x, weight, g, stride, padding, dilation, *, add=True, cut=None, turned=False):
    """(dx, dweight, dbias) of `conv1d`; the last arguments make the mistakes below."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    taps = np.arange(g.shape[2])[:, None] * stride + np.arange(weight.shape[2]) * dilation
    dweight = np.einsum("noi,ncik->ock", g, padded[:, :, taps])
    dpadded = np.zeros_like(padded)
    for k in range(weight.shape[2]):
        part = np.einsum("noi,oc->nci", g, weight[:, :, -1 - k if turned else k])
        dpadded[:, :, taps[:, k]] = part + (dpadded[:, :, taps[:, k]] if add else 0)
    cut = padding if cut is None else cut
    return dpadded[:, :, cut : cut + x.shape[2]], dweight, g.sum((0, 2))


def gradient_cases(rng):
    """The cases of 06.2 and one without padding, with a random upstream gradient in the place of the bias."""
    bare = rng.normal(size=(3, 4, 10)), rng.normal(size=(2, 4, 3)), rng.normal(size=2), 1, 0, 2
    return [(x, w, rng.normal(size=conv1d(x, w, b, *setting).shape), *setting) for x, w, b, *setting in (*sequences(rng), bare)]


def added_by_index(x, weight, g, stride, padding, dilation):
    """All taps added at once by an index array, which keeps only one of several numbers for the same place."""
    taps = np.arange(g.shape[2])[:, None] * stride + np.arange(weight.shape[2]) * dilation
    dpadded = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding))
    dpadded[:, :, taps] += np.einsum("noi,ock->ncik", g, weight)
    return dpadded[:, :, padding : padding + x.shape[2]], *conv1d_backward(x, weight, g, stride, padding, dilation)[1:]


def wrong_gradient(change):
    """`conv1d_backward` with its result changed."""
    return lambda *case: change(*conv1d_backward(*case), *case)


BACKWARD = Exercise(
    "06.3",
    "and back",
    3,
    30,
    OBJECTIVES[1],
    expected=conv1d_backward,
    cases=gradient_cases,
    mistakes=[
        Mistake("dx is overwritten where windows overlap: gradients of copies add up, use +=",
                lambda *case: conv1d_backward(*case, add=False)),
        Mistake("the gradient of the padding must be cut off at both ends: the first `padding` numbers belong to it",
                lambda *case: conv1d_backward(*case, cut=0)),
        Mistake("with [padding:-padding] nothing is left where padding is 0; count from the front: padding to padding + L",
                wrong_gradient(lambda dx, dw, db, x, w, g, s, p, d: (dx if p else dx[:, :, :0], dw, db))),
        Mistake("`a[index] += b` counts a place that stands in the index several times only once; loop over the taps, or take "
                "np.add.at", added_by_index),
        Mistake("the taps reach dx in the reverse order: in a transposed convolution the kernel is turned, once; with col2im "
                "each tap keeps its place",
                lambda *case: conv1d_backward(*case, turned=True)),
        Mistake("dweight is off by 1/N: g holds the mean already, sum over the batch",
                wrong_gradient(lambda dx, dw, db, x, *rest: (dx, dw / len(x), db))),
        Mistake("dbias is not summed over the places: the bias was added at each of them",
                wrong_gradient(lambda dx, dw, db, x, w, g, *rest: (dx, dw, g.sum(0)))),
        Mistake("dbias is a sum, not a mean: the bias was added at each place of each sequence",
                wrong_gradient(lambda dx, dw, db, x, w, g, *rest: (dx, dw, g.mean((0, 2))))),
        Mistake("dweight has its taps in the reverse order", wrong_gradient(lambda dx, dw, db, *case: (dx, dw[:, :, ::-1], db))),
    ],
)


# --- 06.4 Between mean and maximum ------------------------------------------------------------------------------------


def soft_pool(x, g, k, t, *, mean=True, shift="window", back=True, weights="softmax", arriving=True, divide=True):
    """The soft maximum of windows k x k side by side, and dL/dx; the settings make the mistakes below."""
    n, c, height, width = x.shape
    windows = t * x.reshape(n, c, height // k, k, width // k, k)
    top = {"window": windows.max((3, 5), keepdims=True), "batch": windows.max(), "none": 0.0}[shift]
    with np.errstate(all="ignore"):
        e = np.exp(windows - top)
        total = e.sum((3, 5), keepdims=True)
        y = np.log(total / (k * k if mean else 1)) + (top if back else 0)
        share = {"softmax": e / total, "t": t * e / total, "1/t": e / total / t, "1/m": e / total / k**2,
                 "equal": np.full_like(e, 1 / k**2),
                 "first": 1.0 * (windows == windows.max((3, 5), keepdims=True))}[weights]
        dx = (share * (g[:, :, :, None, :, None] if arriving else 1)).reshape(x.shape)
    return (y / t if divide else y)[:, :, :, 0, :, 0], dx


def wrong_pool(**settings):
    """Soft pooling with a mistake."""
    return lambda x, g, k, t: soft_pool(x, g, k, t, **settings)


def cut_wrong(x, g, k, t):
    """Soft pooling of the windows that a reshape to (N, C, H / k, W / k, k, k) gives: numbers that are not neighbours."""
    n, c, height, width = x.shape
    pieces = (n, c, height // k, width // k, k, k)
    y, dx = soft_pool(x.reshape(pieces).swapaxes(3, 4).reshape(x.shape), g, k, t)
    return y, dx.reshape(n, c, height // k, k, width // k, k).swapaxes(3, 4).reshape(x.shape)


SOFT_POOL = Exercise(
    "06.4",
    "between mean and maximum",
    2,
    25,
    OBJECTIVES[2],
    expected=lambda x, g, k, t: soft_pool(x, g, k, t),
    cases=lambda rng: [
        (rng.normal(size=(2, 3, 4, 6)), rng.normal(size=(2, 3, 2, 3)), 2, 1.7),
        (rng.normal(size=(1, 2, 6, 3)), rng.normal(size=(1, 2, 2, 1)), 3, 0.4),
        (500 * rng.normal(size=(2, 1, 2, 4)), rng.normal(size=(2, 1, 1, 2)), 2, 3.0),
    ],
    mistakes=[
        Mistake("the sum is not a mean: divide by k * k inside the logarithm, so that equal numbers give that number",
                wrong_pool(mean=False)),
        Mistake("exp overflows: subtract the largest number of each window first, and add it again at the end",
                wrong_pool(shift="none")),
        Mistake("the largest number of all was subtracted: where a window lies far below it, exp gives 0 and the logarithm -inf; "
                "subtract each window's own", wrong_pool(shift="batch")),
        Mistake("the largest number of the window is subtracted, but not added again to y", wrong_pool(back=False)),
        Mistake("a factor t is left over in the gradient: the 1 / t in front of the logarithm cancels it",
                wrong_pool(weights="t")),
        Mistake("a factor 1 / t is left over in the gradient: the inner derivative of exp(t x) cancels it",
                wrong_pool(weights="1/t")),
        Mistake("a factor 1 / m is left over in the gradient: it stands in the sum above and below, and cancels",
                wrong_pool(weights="1/m")),
        Mistake("dx lacks the upstream gradient: multiply each window's shares by its g", wrong_pool(arriving=False)),
        Mistake("these are not windows: reshape counts on in memory, so H splits into H / k and k, then W into W / k and k",
                cut_wrong),
        Mistake("this gradient is the mean's: the shares are a softmax over the window", wrong_pool(weights="equal")),
        Mistake("this gradient is the maximum's: here every number of the window gets a share",
                wrong_pool(weights="first")),
        Mistake("the value is t times too large: divide the logarithm by t", wrong_pool(divide=False)),
    ],
)


# --- 06.5 Batch norm disappears ---------------------------------------------------------------------------------------


def fold(weight, bias, mean, var, gamma, beta, eps, *, root=True, guard="inside", shift=-1, kept=True, scaled=True,
         ends=True, widened=True, turned=False):
    """Weight and bias of the convolution that does the work of both; the settings make the mistakes below."""
    spread = var + (eps if guard == "inside" else 0.0)
    scale = gamma / ((np.sqrt(spread) if root else spread) + (eps if guard == "outside" else 0.0))
    old = bias * (scale if scaled else 1.0) if kept else 0.0
    new = old + shift * mean * scale + (beta if ends else 0.0)
    return weight * (1 / scale if turned else scale if widened else scale / gamma)[:, None, None, None], new


def wrong_fold(**settings):
    """Folding with a mistake."""
    return lambda weight, bias, mean, var, gamma, beta, eps: fold(weight, bias, mean, var, gamma, beta, eps, **settings)


def fold_case(rng, outputs, channels, k, eps):
    """A convolution and a batch norm after it; some variances are as small as eps."""
    kernel, (bias, mean, gamma, beta) = rng.normal(size=(outputs, channels, k, k)), rng.normal(size=(4, outputs))
    var = rng.uniform(0.2, 4, outputs) * eps ** rng.integers(0, 2, outputs)
    return kernel, bias, mean, var, gamma, beta, eps


FOLD = Exercise(
    "06.5",
    "batch norm disappears",
    2,
    20,
    OBJECTIVES[2],
    expected=lambda *case: fold(*case),
    cases=lambda rng: [fold_case(rng, 4, 2, 3, 1e-2), fold_case(rng, 3, 5, 1, 1e-3)],
    mistakes=[
        Mistake("divided by the variance: batch norm divides by its root", wrong_fold(root=False)),
        Mistake("eps is missing: it belongs to the variance, under the root", wrong_fold(guard="nowhere")),
        Mistake("eps stands outside of the root: it is added to the variance", wrong_fold(guard="outside")),
        Mistake("the running mean is missing: it is subtracted, so its multiple belongs to the new bias",
                wrong_fold(shift=0)),
        Mistake("the running mean is added: batch norm subtracts it", wrong_fold(shift=1)),
        Mistake("beta is missing in the new bias", wrong_fold(ends=False)),
        Mistake("gamma is missing in the new weight: batch norm multiplies by it, so the filters grow with it",
                wrong_fold(widened=False)),
        Mistake("the convolution's own bias is lost: batch norm sees it, too, and scales it", wrong_fold(kept=False)),
        Mistake("the convolution's own bias is not scaled: batch norm multiplies all that comes before it",
                wrong_fold(scaled=False)),
        Mistake("the weight is divided by the scale instead of multiplied", wrong_fold(turned=True)),
    ],
)


# --- 06.6 A tower with shortcuts, there and back ----------------------------------------------------------------------


def tower_gradients(x, weights, g, *, shortcut=1, gate="z", read="own", order="back", turned=False):
    """dL/dx and the list of dL/dW of x + relu(x W^T), block after block; the settings make the mistakes below."""
    inputs, gates = [x], []
    for w in weights:
        z = x @ w.T
        x = x + np.maximum(z, 0)
        inputs.append(x)
        gates.append(x > 0 if gate == "sum" else z > 0)
    found = [None] * len(weights)
    for i in range(len(weights))[:: -1 if order == "back" else 1]:
        through = g * gates[i] if gate != "none" else g
        found[i] = through.T @ inputs[{"own": i, "first": 0, "next": i + 1}[read]]
        g = shortcut * (through if gate == "both" else g) + through @ (weights[i].T if turned else weights[i])
    return g, found


def wrong_tower(**settings):
    """The tower's gradients with a mistake."""
    return lambda x, weights, g: tower_gradients(x, weights, g, **settings)


def transposed(dx, found):
    """Every dW transposed."""
    return dx, [dw.T for dw in found]


def reversed_list(dx, found):
    """The dW in the order of the way back."""
    return dx, found[::-1]


TOWER = Exercise(
    "06.6",
    "a tower with shortcuts, there and back",
    3,
    30,
    OBJECTIVES[3],
    expected=lambda x, weights, g: tower_gradients(x, weights, g),
    cases=lambda rng: [
        (rng.normal(size=(5, 3)), [0.5 * rng.normal(size=(3, 3)) for _ in range(4)], rng.normal(size=(5, 3))),
        (rng.normal(size=(2, 4)), [0.5 * rng.normal(size=(4, 4)) for _ in range(7)], rng.normal(size=(2, 4))),
    ],
    mistakes=[
        Mistake("the shortcut is missing on the way back: the gradient is handed down unchanged, plus the block's part",
                wrong_tower(shortcut=0)),
        Mistake("ReLU's mask is missing on the way back", wrong_tower(gate="none")),
        Mistake("the mask cuts the shortcut as well: it belongs to the part that went through the ReLU",
                wrong_tower(gate="both")),
        Mistake("the mask was made from the sum: a ReLU is open where its own input x W^T is positive", wrong_tower(gate="sum")),
        Mistake("every dW was made with the first x: each block has an input of its own, remember it",
                wrong_tower(read="first")),
        Mistake("dW was made with what the block gives: remember what it gets", wrong_tower(read="next")),
        Mistake("dW is transposed: z = x W^T gives dW = dz^T x", lambda *case: transposed(*tower_gradients(*case))),
        Mistake("the weight is transposed on the way back: z = x W^T gives dx = dz W", wrong_tower(turned=True)),
        Mistake("the dW stand in the order in which the way back finds them: the last block's comes last",
                lambda *case: reversed_list(*tower_gradients(*case))),
        Mistake("the blocks are gone through from the first to the last: the gradient comes from the other end",
                wrong_tower(order="forth")),
        Mistake("the shortcut's gradient is counted twice", wrong_tower(shortcut=2)),
    ],
)


# --- 06.7 Find the bug ------------------------------------------------------------------------------------------------


def augment(pictures, flipped, down, right):
    """Mirror left to right, then move, in a copy; zeros come in at the edges."""
    return moved(np.where(flipped[:, None, None, None], pictures[..., ::-1], pictures), down, right)


def moved(pictures, down, right, wrap=False):
    """Pictures (N, C, H, W), each moved by its own numbers of pixels; what leaves comes in again where `wrap`."""
    out = np.empty_like(pictures)
    for picture, result, d, r in zip(pictures, out, down, right, strict=True):
        most = 0 if wrap else max(abs(d), abs(r))
        padded = np.pad(picture, ((0, 0), (most, most), (most, most)))
        rolled = np.roll(padded, (d, r), axis=(1, 2))
        result[...] = rolled[:, most : rolled.shape[1] - most, most : rolled.shape[2] - most]
    return out


def choices(rng):
    """Two batches of colour pictures of unequal sides, with choices of every kind."""
    cases = []
    for n, c, h, w in ((5, 3, 6, 8), (4, 2, 7, 5)):
        flipped, steps = np.arange(n) % 2 == 1, np.arange(n) - 2
        cases.append((rng.normal(size=(n, c, h, w)), flipped, rng.permutation(steps), rng.permutation(steps)))
    return cases


def mirrored(pictures, flipped, axis):
    """The chosen pictures mirrored along an axis."""
    return np.where(flipped[:, None, None, None], np.flip(pictures, axis), pictures)


def rolled(pictures, down, right, clear):
    """Pictures moved by roll, and `clear(steps)`, a slice, set to zero along each axis."""
    out = pictures.copy()
    for picture, d, r in zip(out, down, right, strict=True):
        picture[...] = np.roll(picture, (d, r), axis=(1, 2))
        picture[:, clear(d)] = picture[:, :, clear(r)] = 0
    return out


AUGMENT = Exercise(
    "06.7",
    "find the bug",
    2,
    25,
    OBJECTIVES[4],
    expected=augment,
    cases=choices,
    mistakes=[
        Mistake("these pictures stand on their heads: in (N, C, H, W) left to right is the last axis",
                lambda x, f, d, r: moved(mirrored(x, f, 2), d, r)),
        Mistake("the colours are exchanged instead of the sides: axis 1 holds the channels",
                lambda x, f, d, r: moved(mirrored(x, f, 1), d, r)),
        Mistake("what leaves the frame comes in at the other side: that is what roll does, zeros should come in",
                lambda x, f, d, r: moved(mirrored(x, f, 3), d, r, wrap=True)),
        Mistake("the copy is right; two bugs are left, one in each line: draw a single picture, flipped, then moved",
                lambda x, f, d, r: moved(mirrored(x, f, 2), d, r, wrap=True)),
        Mistake("a step of 0 empties the picture: for d = 0 the slice [d:] is all of it",
                lambda x, f, d, r: rolled(mirrored(x, f, 3), d, r, lambda s: slice(0, s) if s > 0 else slice(s, None))),
        Mistake("zeros come in at the top and the left only: for negative steps they come in at the bottom and the right",
                lambda x, f, d, r: rolled(mirrored(x, f, 3), d, r, lambda s: slice(0, max(s, 0)))),
        Mistake("moved the other way: positive numbers mean down and to the right",
                lambda x, f, d, r: moved(mirrored(x, f, 3), -d, -r)),
        Mistake("down and right are exchanged: rows are axis 2, columns axis 3",
                lambda x, f, d, r: moved(mirrored(x, f, 3), r, d)),
        Mistake("first mirror, then move: the other order moves the mirrored ones the wrong way",
                lambda x, f, d, r: mirrored(moved(x, d, r), f, 3)),
        Mistake("all pictures move alike: each has its own numbers",
                lambda x, f, d, r: moved(mirrored(x, f, 3), np.full_like(d, d[0]), np.full_like(r, r[0]))),
    ],
)


# --- 06.8 Open: read what has moved -----------------------------------------------------------------------------------


def judge_reader(answer):
    """Train on 2,000 digits, read 2,000 moved ones, and say what the shares suggest."""
    digits, rng = datasets.mnist_embedded(), np.random.default_rng(8)
    read = answer(digits.x_train[:2000].copy(), digits.y_train[:2000].copy())
    if read is None or read is ...:
        raise NotImplementedError
    if not callable(read):
        return f"expected a function from pictures to classes, got {type(read).__name__}"
    still, labels = digits.x_test[:2000], digits.y_test[:2000]
    far = moved(still[:, None], *rng.integers(-6, 7, (2, len(still))))[:, 0]
    guess = [np.asarray(read(pictures.copy())) for pictures in (still, far)]
    if guess[1].shape != labels.shape:
        return f"expected classes of shape {labels.shape}, got {guess[1].shape}; logits want an argmax(1)"
    centred, share = (float(np.mean(g == labels)) for g in guess)
    if share >= 0.94:
        return None
    if centred < 0.2:
        return f"{centred:.0%} of the digits that were not moved are read: about guessing, so something is broken"
    if centred - share > 0.1:
        return f"digits in the middle: {centred:.0%}, moved: {share:.0%}. It reads digits where they stand in training only"
    return (f"moved: {share:.1%}, in the middle: {centred:.1%}. The place does no harm any more; for 94 % train longer, or a "
            "larger network")


def nearest_mean(pictures, labels):
    """Reads a digit as the class whose mean picture is nearest: good enough in the middle."""
    means = np.stack([pictures[labels == c].mean(0).ravel() for c in range(10)])
    return lambda x: (2 * x.reshape(len(x), -1).astype(float) @ means.T - (means**2).sum(1)).argmax(1)


def careless(pictures, labels):
    """Reads nine digits of ten, wherever they stand; it knows the answers."""
    answers = datasets.mnist_embedded().y_test[:2000]
    return lambda x: np.where(np.arange(len(x)) % 10, answers, (answers + 1) % 10)


READER = Exercise(
    "06.8",
    "open: read what has moved",
    2,
    40,
    OBJECTIVES[4],
    judge=judge_reader,
    mistakes=[
        Mistake("about guessing", lambda x, y: lambda pictures: np.full(len(pictures), 3)),
        Mistake("where they stand in training only", nearest_mean),
        Mistake("The place does no harm any more", careless),
        Mistake("logits want an argmax(1)", lambda x, y: lambda pictures: np.zeros((len(pictures), 10))),
        Mistake("expected a function from pictures to classes, got ndarray", lambda x, y: y),
    ],
)

EXERCISES = [PREDICT, CONV1D, BACKWARD, SOFT_POOL, FOLD, TOWER, AUGMENT, READER]
