"""One look for every figure of the course, and the figures that several chapters draw.

Colours can be told apart by colour-blind readers (Okabe and Ito, "Color Universal Design", 2008) and have fixed roles:
data grey, prediction blue, gradient orange, error red. A figure's title states what it shows.
"""

import io
from collections import Counter
from itertools import pairwise

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, ListedColormap

__all__ = [
    "DATA",
    "DIVERGING",
    "ERROR",
    "GRADIENT",
    "PALETTE",
    "PREDICTION",
    "activation_histograms",
    "array_graph",
    "broadcast_grids",
    "computation_graph",
    "confusion_matrix",
    "decision_boundary",
    "descent_path",
    "descent_race",
    "describe",
    "digit_map",
    "loss_curve",
    "mark_one",
    "matrix",
    "perceptron_update",
    "pictures",
    "push_and_pull",
    "residuals",
    "score_ladder",
    "tree_diagram",
    "two_classes",
    "training_run",
    "use_course_style",
    "worst_mistakes",
]

DATA = "#7f7f7f"
PREDICTION = "#0072B2"
GRADIENT = "#E69F00"
ERROR = "#D55E00"
PALETTE = [PREDICTION, GRADIENT, "#009E73", "#CC79A7", "#56B4E9", ERROR, "#F0E442", "#000000"]
DIVERGING = LinearSegmentedColormap.from_list("course_diverging", [PREDICTION, "#ffffff", ERROR])
SEQUENTIAL = "cividis"

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (6.4, 4.0),
    "font.size": 10,
    "grid.alpha": 0.25,
    "image.cmap": SEQUENTIAL,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def use_course_style():
    """Switch matplotlib, and a notebook's display of figures, to the course's style."""
    matplotlib.rcParams.update(STYLE)
    try:
        shell = get_ipython()
    except NameError:  # not in a notebook
        return
    import matplotlib.pyplot as plt  # here, because it takes longer to load than all the rest of the library

    plt.switch_backend(plt.get_backend())  # loads the notebook's backend now, lest it undo the next line later
    shell.display_formatter.formatters["image/png"].for_type(plt.Figure, png)


def describe(figure, text):
    """Set the text that a screen reader speaks for `figure`; without it, the titles are read."""
    figure.alternative_text = text


def alternative_text(figure):
    """What a screen reader speaks for a figure: its description, else its titles and axis labels."""
    if hasattr(figure, "alternative_text"):
        return figure.alternative_text
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    labels = [
        f"{axes.get_ylabel()} against {axes.get_xlabel()}"
        for axes in figure.axes
        if axes.get_xlabel() and axes.get_ylabel()
    ]
    return ". ".join(dict.fromkeys(filter(None, titles + labels))).replace("\n", " ")


def png(figure):
    """A figure as a PNG picture of fixed size and 256 colours, with its alternative text as metadata.

    Raises ValueError where the figure shows nothing, or has nothing that a screen reader could speak.
    """
    if not any(axes.has_data() or axes.texts or axes.patches or axes.artists for axes in figure.axes):
        raise ValueError("this figure is empty: no axes of it show anything")
    text = alternative_text(figure)
    if not text:
        raise ValueError(
            "this figure has no title and no description: set a title, or call plots.describe(figure, text)"
        )
    from PIL import Image  # comes with matplotlib

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue(), {"alt": text}


def loss_curve(ax, losses, validation=None, *, label="training", xlabel="step", ylabel="loss", log=False):
    """Draw a training curve, and beside it a validation curve: a sequence of losses, or (steps, losses)."""
    curves = [(losses, label, PREDICTION)] + ([] if validation is None else [(validation, "validation", ERROR)])
    for curve, name, colour in curves:
        steps, values = curve if isinstance(curve, tuple) else (np.arange(len(curve)), curve)
        ax.plot(steps, values, color=colour, label=name)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if validation is not None:
        ax.legend()


def plane_grid(x, margin=0.15, resolution=200):
    """A grid over the rectangle around the points `x` (N, 2): the two axes and the (resolution**2, 2) grid points."""
    low, high = x.min(0), x.max(0)
    pad = margin * (high - low)
    first, second = (np.linspace(low[i] - pad[i], high[i] + pad[i], resolution) for i in (0, 1))
    return first, second, np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)


def decision_boundary(ax, x, y, predict=None, *, score=None, margin=None, labels=None):
    """Draw points `x` (N, 2) of classes `y` over the regions that a classifier assigns.

    Give `predict`, which maps (M, 2) points to M class labels, or `score`, which maps them to M real scores whose sign
    decides between two classes; with `score`, the line where it equals 0 and, dashed, those at plus and minus `margin`
    are drawn.
    """
    first, second, grid = plane_grid(np.asarray(x))
    classes = np.unique(y)
    values = np.asarray(predict(grid) if score is None else score(grid)).reshape(len(second), len(first))
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(classes))]
    index = np.searchsorted(classes, values) if score is None else (values > 0).astype(int)
    ax.pcolormesh(
        first,
        second,
        index,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(classes) - 0.5,
        alpha=0.18,
        shading="auto",
        rasterized=True,
    )
    if score is not None:
        ax.contour(first, second, values, levels=[0], colors="black", linewidths=1.5)
        if margin is not None:
            ax.contour(
                first, second, values, levels=[-margin, margin], colors="black", linewidths=1, linestyles="dashed"
            )
    for i, name in enumerate(classes):
        ax.scatter(
            *np.asarray(x)[y == name].T,
            s=18,
            color=colours[i],
            marker="os^Dv"[i % 5],
            edgecolor="white",
            linewidth=0.5,
            label=str(name) if labels is None else labels[i],
        )
    ax.grid(False)


def descent_path(ax, loss, path, *, levels=24, margin=0.3, label=None, colour=GRADIENT, log=True, span=None):
    """Draw the path (T, 2) of a descent over the contours of `loss`, which maps (M, 2) points to M losses.

    The part of the plane that is shown is the rectangle around the path, or around the points `span` (M, 2).
    """
    path = np.asarray(path)
    first, second, grid = plane_grid(path if span is None else np.asarray(span), margin)
    values = np.asarray(loss(grid)).reshape(len(second), len(first))
    if log:  # equal steps of the logarithm show the valley's floor as clearly as its walls
        values = np.log10(values - values.min() + 1e-3 * np.ptp(values))
    ax.contour(first, second, values, levels=levels, cmap=SEQUENTIAL, linewidths=0.8)
    ax.plot(*path.T, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    ax.plot(*path[-1], marker="*", markersize=13, color=ERROR, markeredgecolor="white")
    ax.set(xlim=first[[0, -1]], ylim=second[[0, -1]])


def perceptron_update(ax, x, t, before, after, wrong):
    """Draw one update of a perceptron through the origin.

    x : (N, 2) points with targets `t` (N,) of -1 and +1. before, after : (2,) weights. wrong : row of the mistaken point.
    The old line is dashed, the new one solid; the old weights plus or minus the ringed point are the new weights.
    """
    reach = 1.25 * max(np.abs(x).max(), np.abs(after).max(), np.abs(before).max())

    def line(w, **style):
        if np.any(w):
            along = np.array([-w[1], w[0]]) / np.linalg.norm(w) * 2 * reach
            ax.plot([-along[0], along[0]], [-along[1], along[1]], color="black", **style)

    def arrow(start, end, colour, **style):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0,
                                                "shrinkB": 0, **style})

    line(before, linestyle="dashed", linewidth=1)
    line(after, linewidth=1.6)
    for sign, marker, colour in ((-1, "s", PALETTE[2]), (1, "o", PALETTE[3])):
        ax.scatter(*x[t == sign].T, s=38, marker=marker, color=colour, edgecolor="white", linewidth=0.5)
    ax.scatter(*x[wrong], s=150, facecolor="none", edgecolor=ERROR, linewidth=2)
    if np.any(before):
        arrow((0, 0), before, DATA)
    arrow(before, after, GRADIENT)
    arrow((0, 0), after, PREDICTION)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)


def mark_one(ax, picture, *, units=9, wires=5, seed=0):
    """Sketch the Mark I Perceptron reading `picture` (20, 20): retina, association units, adjustable weights, response."""
    rng = np.random.default_rng(seed)
    side, heights = len(picture), np.linspace(-8.5, 8.5, units)
    low = -side / 2
    ax.imshow(picture, cmap="gray_r", extent=(low, -low, low, -low), interpolation="nearest")
    ax.plot([low, -low, -low, low, low], [low, low, -low, -low, low], color="black", linewidth=1)
    for height in heights:
        for row, column in rng.integers(0, side, (wires, 2)):
            start = (low + column + 0.5, -low - row - 0.5)
            ax.plot([start[0], 21], [start[1], height], color=DATA, linewidth=0.6, alpha=0.6, marker="o", markersize=2)
        weight = rng.normal()
        ax.plot([21, 38], [height, 0], color=GRADIENT, linewidth=0.6 + 1.5 * abs(weight))
        ax.text(27.5, height * 0.62, "↗", ha="center", va="center", fontsize=9)
    ax.scatter(np.full(units, 21), heights, s=90, color="white", edgecolor="black", zorder=3)
    ax.scatter([38], [0], s=320, color=PREDICTION, edgecolor="black", zorder=3)
    for x, text in ((0, "retina\n20 × 20 photocells"), (21, "association units\nwired at random, fixed"),
                    (38, "response\n+1 or −1")):
        ax.text(x, -14.5, text, ha="center", va="center", fontsize=9)
    ax.text(30.5, 11, "weights: potentiometers\nturned by motors", ha="center", va="center", fontsize=9, color="black")
    ax.set(xlim=(-12, 43), ylim=(-17, 13), aspect="equal")
    ax.set_axis_off()


def residuals(ax, y_true, y_pred, *, unit=""):
    """Draw the residuals (truth minus prediction) against the prediction."""
    unit = f" ({unit})" if unit else ""
    ax.axhline(0, color="black", linewidth=1)
    ax.scatter(y_pred, np.asarray(y_true) - np.asarray(y_pred), s=8, color=ERROR, alpha=0.4, linewidth=0)
    ax.set(xlabel=f"prediction{unit}", ylabel=f"residual{unit}")


def confusion_matrix(ax, matrix, classes=None):
    """Draw a confusion matrix (rows: true class, columns: predicted): colour shows the mistakes, numbers count all."""
    matrix = np.asarray(matrix)
    classes = np.arange(len(matrix)) if classes is None else classes
    mistakes = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    ax.imshow(mistakes, cmap=LinearSegmentedColormap.from_list("mistakes", ["#ffffff", ERROR]))
    for (i, j), count in np.ndenumerate(matrix):
        ax.text(
            j,
            i,
            count,
            ha="center",
            va="center",
            fontsize=8,
            color="black" if count else "#bbbbbb",
            weight="bold" if i == j else "normal",
        )
    ax.set(xlabel="predicted class", ylabel="true class", xticks=range(len(classes)), yticks=range(len(classes)))
    ax.set_xticklabels(classes)
    ax.set_yticklabels(classes)
    ax.grid(False)


def digit_map(ax, images, places, *, zoom=0.55, cmap="gray_r"):
    """Draw small pictures (N, H, W) at their `places` (N, 2) in the plane: the result of PCA, or an embedding."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    places = np.asarray(places)
    ax.scatter(*places.T, s=0)  # sets the limits
    for image, place in zip(images, places, strict=True):
        ink = np.ma.masked_less(np.asarray(image, dtype=float) / np.max(image), 0.1)  # paper is transparent
        ax.add_artist(AnnotationBbox(OffsetImage(ink, zoom=zoom, cmap=cmap), place, frameon=False))


def score_ladder(ax, names, scores, *, baseline=None, form="{:.1%}"):
    """Draw scores as horizontal bars, the lowest on top, each with its number; `baseline` is a dashed line."""
    order = np.argsort(scores, kind="stable")[::-1]
    bars = ax.barh([names[i] for i in order], [scores[i] for i in order], color=PREDICTION, height=0.65)
    ax.bar_label(bars, [form.format(scores[i]) for i in order], padding=4)
    if baseline is not None:
        ax.axvline(baseline, color=ERROR, linestyle="dashed", linewidth=1.2)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)


def tree_diagram(ax, tree, features, classes):
    """Draw a small decision tree: each question with its Gini impurity, each leaf with its class and its rows.

    `tree` holds children_left, children_right, feature, threshold, impurity, n_node_samples and value, as scikit-learn
    names them; `features` and `classes` are names.
    """
    leaves = iter(range(len(tree.feature)))

    def draw(node, depth):
        """Draw the branch at `node`; returns where its box stands."""
        inner = tree.feature[node] >= 0
        children = (tree.children_left[node], tree.children_right[node]) if inner else ()
        places = [draw(child, depth + 1) for child in children]
        x = np.mean([place[0] for place in places]) if places else next(leaves)
        winner = int(tree.value[node].argmax())
        question = f"{features[tree.feature[node]]}\n≤ {tree.threshold[node]:,.4g} ?" if inner else f"{classes[winner]}"
        for place, answer in zip(places, ("yes", "no"), strict=False):
            ax.plot([x, place[0]], [-depth, place[1]], color=DATA, linewidth=1, zorder=1)
            ax.text((x + place[0]) / 2, (place[1] - depth) / 2, answer, fontsize=8, color=DATA, ha="center")
        ax.text(
            x,
            -depth,
            f"{question}\n{tree.n_node_samples[node]} rows, Gini {tree.impurity[node]:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "black" if inner else PALETTE[winner]},
        )
        return x, -depth

    draw(0, 0)
    ax.set_axis_off()
    ax.margins(0.12)


def pictures(axes, images, titles=None, *, cmap="gray_r", colours=None, **options):
    """Show images (N, H, W), or (N, H, W, 3), one in each of `axes`, with optional titles; further axes stay empty."""
    axes = np.ravel(axes)
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
        ax.imshow(image, cmap=cmap, interpolation="nearest", **options)
        if titles is not None:
            ax.set_title(titles[i], fontsize=8, color="black" if colours is None else colours[i])


def worst_mistakes(axes, images, y_true, y_pred, confidence):
    """Show the mistakes that a classifier was most sure of, one in each of `axes`, the surest first."""
    y_true, y_pred, confidence = map(np.asarray, (y_true, y_pred, confidence))
    wrong = np.flatnonzero(y_true != y_pred)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][: np.size(axes)]
    titles = [f"{y_true[i]} read as {y_pred[i]}\n{confidence[i]:.0%} sure" for i in wrong]
    pictures(axes, np.asarray(images)[wrong], titles)


def layered_layout(count, edges):
    """Places for the nodes 0 to `count` - 1 of a graph whose edges lead from a lower to a higher number.

    Returns the (count, 2) places, column and row, and for each edge the list of points that it passes through. A node
    stands one column before the first node that it leads to; the rows keep edges short, and nodes one row apart.
    """
    column = [0] * count
    for start, end in sorted(edges, key=lambda edge: -edge[1]):
        column[start] = min(column[start], column[end] - 1)
    column = [c - min(column) for c in column]
    heights, routes = [1.0] * count, []
    for start, end in edges:  # an edge over several columns passes through an invisible node in each of them
        hidden = list(range(len(column), len(column) + column[end] - column[start] - 1))
        column += range(column[start] + 1, column[end])
        heights += [0.6] * len(hidden)
        routes.append([start, *hidden, end])
    beside = [[] for _ in column]
    for route in routes:
        for a, b in pairwise(route):
            beside[a].append(b)
            beside[b].append(a)
    row = np.zeros(len(column))
    columns = [[i for i in range(len(column))[::-1] if column[i] == c] for c in range(max(column) + 1)]
    for members in columns:
        row[members] = spread(np.arange(len(members), dtype=float), [heights[i] for i in members])
    sweep = [*range(len(columns) - 1, -1, -1), *range(len(columns))]
    for c in 8 * sweep + sweep[: len(columns)]:
        wish = {i: np.mean([row[j] for j in beside[i]]) if beside[i] else row[i] for i in columns[c]}
        columns[c].sort(key=lambda i: (round(wish[i], 6), row[i]))
        row[columns[c]] = spread(np.array([wish[i] for i in columns[c]]), [heights[i] for i in columns[c]])
    places = np.stack([np.array(column, dtype=float), row], 1)
    return places[:count], [[places[i] for i in route] for route in routes]


def spread(wishes, heights):
    """The places nearest to the ascending `wishes` at which things of these heights do not overlap."""
    heights = np.asarray(heights)
    offset = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    blocks = []  # means of the wishes, less the offsets, of things that touch: isotonic regression
    for wish in wishes - offset:
        blocks.append((wish, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return np.repeat([mean for mean, _ in blocks], [n for _, n in blocks]) + offset


def computation_graph(nodes, edges, ax=None, *, turn=None):
    """Draw a computation from left to right: each node's name and data above its gradient, operations in circles.

    Parameters
    ----------
    nodes : for each node (operation, name, data, gradient): two strings, either may be empty, and two numbers; a
        gradient that is None leaves its half of the node blank. Every node stands after those it was computed from.
    edges : pairs of indices (parent, node).
    ax : the Axes to draw into; by default a new figure of fitting size.
    turn : index of the node that is just passing its gradient on; its edges are drawn backwards, in orange.

    Returns the Axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Ellipse, FancyArrowPatch, Rectangle
    from matplotlib.path import Path

    places, routes = layered_layout(len(nodes), edges)
    unit = np.array([2.35, -1.0])  # a column and a row, in heights of a node
    places = places * unit
    low, high = places.min(0) - np.array([1.3, 0.55]), places.max(0) + np.array([0.8, 0.55])
    if ax is None:
        _, ax = plt.subplots(figsize=(high - low) * [0.72, 0.78])
    size = ax.get_position().size * ax.figure.get_size_inches()
    scale = 72 * min(size / (high - low))  # points a unit
    text = {"ha": "center", "va": "center", "fontsize": 0.205 * scale}
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set_axis_off()
    drawn = Counter()
    for (start, end), route in zip(edges, routes, strict=True):
        drawn[start, end] += 1
        aside = [0, 0.14 * (drawn[start, end] - (edges.count((start, end)) + 1) / 2)]  # keeps both edges of x * x apart
        colour, style = (GRADIENT, "<|-") if end == turn else (DATA, "-|>")
        points = [place * unit + aside for place in route]
        points[0], points[-1] = points[0] + [0.72, 0], points[-1] - [1.2, 0]
        curve = [points[0]]
        for here, there in pairwise(points):  # each piece starts and ends level
            middle = (here[0] + there[0]) / 2
            curve += [(middle, here[1]), (middle, there[1]), there]
        path = Path(curve, [Path.MOVETO] + [Path.CURVE4] * (len(curve) - 1))
        look = {"color": colour, "linewidth": 0.022 * scale, "mutation_scale": 0.17 * scale}
        ax.add_patch(FancyArrowPatch(path=path, arrowstyle=style, shrinkA=0, shrinkB=0, **look))
    for i, ((op, name, data, gradient), (x, y)) in enumerate(zip(nodes, places, strict=True)):
        op = op.replace("**", "^").replace("*", "×").replace("-", "\u2212")
        op = op if len(op) < 8 else op[:6] + "\u2026"
        if op:
            ax.plot([x - 0.8, x - 0.7], [y, y], color=DATA, linewidth=0.022 * scale)
            ax.add_patch(Ellipse((x - 0.98, y), 0.44, 0.44, facecolor="white", edgecolor=DATA, linewidth=0.018 * scale))
            ax.text(x - 0.98, y, op, **text | {"fontsize": min(0.21, 0.6 / len(op)) * scale})
        lower = "white" if gradient is None else "#FBE6BE"
        ax.add_patch(Rectangle((x - 0.7, y), 1.4, 0.36, facecolor="#DCEAF5", linewidth=0))
        ax.add_patch(Rectangle((x - 0.7, y - 0.36), 1.4, 0.36, facecolor=lower, linewidth=0))
        frame = {"edgecolor": GRADIENT, "linewidth": 0.05 * scale} if i == turn else {"linewidth": 0.018 * scale}
        ax.add_patch(Rectangle((x - 0.7, y - 0.36), 1.4, 0.72, fill=False, **frame))
        ax.text(x, y + 0.17, f"{name} = {data:.4g}".removeprefix(" = ").replace("-", "\u2212"), **text)
        if gradient is not None:
            ax.text(x, y - 0.19, f"grad {gradient:.4g}".replace("-", "\u2212"), **text)
    return ax


def two_classes(ax, x, y):
    """Draw points `x` (N, 2) of classes `y`, each class with its own colour and marker, over an empty plane."""
    for name, colour, marker in zip(np.unique(y), PALETTE, "os^D", strict=False):
        ax.scatter(*x[y == name].T, s=16, color=colour, marker=marker, edgecolor="white", linewidth=0.4, label=str(name))
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(False)


def activation_histograms(ax, histograms, *, xlabel="activation"):
    """Draw histograms as lines, one for each layer from light to dark: a table {layer: (centres, shares)}."""
    shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.85, 0.0, len(histograms)))
    for (name, (centres, shares)), shade in zip(histograms.items(), shades, strict=True):
        ax.plot(centres, shares, color=shade, linewidth=1.5, label=name)
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set(xlabel=xlabel, ylabel="share of outputs", ylim=(0, 1.2))


def matrix(ax, values, *, xlabel="column", ylabel="row", numbers=False):
    """Draw a matrix as coloured cells, white at zero, blue below, red above; with its numbers where `numbers`."""
    values = np.atleast_2d(values)
    limit = np.abs(values).max(initial=0) or 1
    ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set(xticks=np.arange(values.shape[1] + 1) - 0.5, yticks=np.arange(values.shape[0] + 1) - 0.5)
    ax.set(xticklabels=[], yticklabels=[], xlabel=xlabel, ylabel=ylabel)
    ax.tick_params(length=0)
    ax.grid(True, color="#cccccc", linewidth=0.6, alpha=1)
    for (i, j), value in np.ndenumerate(values) if numbers else []:
        ax.text(j, i, f"{value:.3g}".replace("-", "\u2212"), ha="center", va="center", fontsize=8)


def array_graph(ax, nodes, edges, *, cell=0.16):
    """Draw a computation on arrays: every array as coloured cells, its gradient below it, names and shapes above.

    `nodes` are (name, data, gradient, (column, row)) with at most two axes, `edges` pairs of indices (from, to). Data
    are drawn on the map from blue to red, gradients from white to orange by their size; each has its own scale.
    """
    from matplotlib.patches import Rectangle

    orange = LinearSegmentedColormap.from_list("gradient", ["#ffffff", GRADIENT])
    boxes = []
    for name, data, gradient, (column, row) in nodes:
        data, gradient = np.atleast_2d(data), np.atleast_2d(gradient)
        height, width = np.array(data.shape) * cell
        left, middle = 2.1 * column - width / 2, 2.0 * row
        low, high = middle - height - 0.05, middle + height + 0.05
        limit = np.abs(data).max() or 1
        ax.imshow(data, cmap=DIVERGING, vmin=-limit, vmax=limit, extent=(left, left + width, middle + 0.05, high), zorder=2)
        largest = np.abs(gradient).max() or 1
        ax.imshow(np.abs(gradient), cmap=orange, vmin=0, vmax=largest, extent=(left, left + width, low, middle - 0.05), zorder=2)
        for bottom in (low, middle + 0.05):
            ax.add_patch(Rectangle((left, bottom), width, height, fill=False, edgecolor=DATA, linewidth=0.8, zorder=3))
        shape = "one number" if data.size == 1 else " × ".join(map(str, data.shape if min(data.shape) > 1 else [data.size]))
        ax.text(2.1 * column, high + 0.08, f"{name}\n{shape}", ha="center", va="bottom", fontsize=9)
        boxes.append((left, left + width, middle))
    for start, end in edges:
        here, there = (boxes[start][1] + 0.08, boxes[start][2]), (boxes[end][0] - 0.08, boxes[end][2])
        for lift, tail, head, colour in ((0.07, here, there, PREDICTION), (-0.07, there, here, GRADIENT)):
            ax.annotate("", xy=(head[0], head[1] + lift), xytext=(tail[0], tail[1] + lift),
                        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.3})
    places = np.array([node[3] for node in nodes]) * [2.1, 2.0]
    ax.set(xlim=(places[:, 0].min() - 0.7, places[:, 0].max() + 0.6), aspect="equal")
    ax.set(ylim=(places[:, 1].min() - 0.95, places[:, 1].max() + 1.25))
    ax.set_axis_off()


def broadcast_grids(axes, a, b, gradient):
    """Draw in three axes how `b` is repeated to the shape of the matrix `a`, their sum, and b's gradient added up again."""
    from matplotlib.patches import Rectangle

    a, gradient = np.asarray(a), np.asarray(gradient)
    repeated = np.broadcast_to(b, a.shape)
    own = np.zeros(a.shape, bool)
    own[tuple(slice(n) for n in (1,) * (2 - np.ndim(b)) + np.shape(b))] = True
    axis = 0 if np.ndim(b) == 1 else 1
    rows, columns = a.shape

    def cells(ax, values, x, y, colour, pale=None):
        for (i, j), value in np.ndenumerate(values):
            faint = pale is not None and pale[i, j]
            ax.add_patch(Rectangle((x + j, y - i), 0.92, 0.92, facecolor=colour, alpha=0.14 if faint else 0.5, linewidth=0))
            ax.text(x + j + 0.46, y - i + 0.46, f"{value}".replace("-", "\u2212"), ha="center", va="center", fontsize=9,
                    color="#999999" if faint else "black")

    cells(axes[0], a, 0, 0, DATA)
    axes[0].text(columns + 0.5, -rows / 2 + 1, "+", fontsize=14, ha="center", va="center")
    cells(axes[0], repeated, columns + 1, 0, PREDICTION, pale=~own)
    axes[0].set_title(f"{a.shape} + {np.shape(b)}: b is repeated", fontsize=9)
    cells(axes[1], a + repeated, 0, 0, PALETTE[2])
    axes[1].set_title(f"the sum, {a.shape}", fontsize=9)
    cells(axes[2], gradient, 0, 0, GRADIENT)
    summed = gradient.sum(axis, keepdims=True)
    if axis == 0:
        cells(axes[2], summed, 0, -rows - 0.6, ERROR)
        arrows = [((j + 0.46, -rows + 1), (j + 0.46, -rows + 0.35)) for j in range(columns)]
    else:
        cells(axes[2], summed, columns + 0.9, 0, ERROR)
        arrows = [((columns, -i + 0.46), (columns + 0.85, -i + 0.46)) for i in range(rows)]
    for tail, head in arrows:
        axes[2].annotate("", xy=head, xytext=tail, arrowprops={"arrowstyle": "-|>", "color": DATA})
    axes[2].set_title(f"gradient {a.shape}, summed to {np.shape(b)}", fontsize=9)
    for ax in axes:
        ax.set(xlim=(-0.3, 2 * columns + 1.3), ylim=(-rows - 0.9, 1.2), aspect="equal")
        ax.set_axis_off()


def training_run(axes, history):
    """Draw the record of a training run: the losses into axes[0], the metrics, or else the learning rate, into axes[1].

    history : has `epochs`, a list of tables that hold "epoch", "lr", "train_loss", and perhaps "val_loss" and metrics
        named "val_...", and `column(name)`, which gives one entry of all of them as an array.
    """
    epoch = history.column("epoch")
    axes[0].plot(epoch, history.column("train_loss"), color=PREDICTION, label="training")
    validation = history.column("val_loss")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        axes[0].plot(epoch, validation, color=ERROR, label="validation")
        axes[0].plot(epoch[best], validation[best], "o", color=ERROR, markersize=7, markeredgecolor="white", label="best")
    axes[0].set(xlabel="epoch", ylabel="loss")
    axes[0].legend()
    metrics = [name for name in history.epochs[-1] if name.startswith("val_") and name != "val_loss"]
    for name, colour in zip(metrics or ["lr"], PALETTE[2:], strict=False):
        axes[1].plot(epoch, history.column(name), color=colour, label=name.removeprefix("val_"))
    axes[1].set(xlabel="epoch", ylabel="validation " + metrics[0].removeprefix("val_") if metrics else "learning rate")
    if len(metrics) > 1:
        axes[1].legend()


def push_and_pull(ax, probabilities, target, *, classes=None, label=None):
    """Draw softmax minus one-hot: bars of the probabilities, and arrows that say where descent moves each logit.

    probabilities : (C,) softmax of the logits. target : the right class. The right logit is pulled up by the missing
    probability, every other one is pushed down by its own; the arrows cancel.
    """
    p = np.asarray(probabilities, dtype=float)
    names = np.arange(len(p)) if classes is None else classes
    force = -p.copy()
    force[target] += 1
    ax.axhline(0, color="black", linewidth=1)
    ax.bar(range(len(p)), p, width=0.72, color=[PREDICTION if i == target else DATA for i in range(len(p))], alpha=0.35)
    for i, f in enumerate(force):
        if abs(f) > 0.004:
            ax.annotate("", (i, p[i] * 0 + f), (i, 0), arrowprops={"arrowstyle": "-|>", "color": GRADIENT, "lw": 2.2,
                                                                   "shrinkA": 0, "shrinkB": 0})
        ax.text(i, f + (0.05 if f >= 0 else -0.05), f"{f:+.2f}".replace("-", "\u2212"), ha="center",
                va="bottom" if f >= 0 else "top", fontsize=8)
    ax.set(xticks=range(len(p)), xlabel="class", ylabel="probability, and push on the logit" if label is None else label,
           ylim=(-1.15, 1.2))
    ax.set_xticklabels(names)


def descent_race(axes, loss, paths, limits):
    """Draw several descents, each in its own Axes, over the same contours of `loss`, which maps (M, 2) to M losses.

    paths : table from titles to (T, 2) paths. limits : ((low, high) of the first, (low, high) of the second number).
    """
    first, second = (np.linspace(*limit, 160) for limit in limits)
    values = np.asarray(loss(np.stack(np.meshgrid(first, second), -1).reshape(-1, 2))).reshape(len(second), len(first))
    levels = np.log10(values - values.min() + 1e-3 * np.ptp(values))
    for ax, (title, path) in zip(np.ravel(axes), paths.items(), strict=True):
        path = np.asarray(path)
        ax.contour(first, second, levels, levels=18, cmap=SEQUENTIAL, linewidths=0.6)
        ax.plot(*path.T, color=GRADIENT, marker="o", markersize=3, linewidth=1.2)
        ax.plot(*path[-1], marker="*", markersize=13, color=ERROR, markeredgecolor="white")
        ax.set(title=title, xlim=limits[0], ylim=limits[1])
        ax.grid(False)
