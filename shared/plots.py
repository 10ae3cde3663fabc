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
from matplotlib.ticker import MaxNLocator

from shared.datasets import CIFAR10_CLASSES

__all__ = [
    "DATA",
    "DIVERGING",
    "ERROR",
    "GRADIENT",
    "PALETTE",
    "PREDICTION",
    "SCENES",
    "activation_histograms",
    "adaptive_cells",
    "array_graph",
    "attention_grid",
    "attention_plane",
    "attention_pull",
    "attention_table",
    "attention_tiles",
    "block_flow",
    "broadcast_grids",
    "byte_grid",
    "caught_table",
    "channel_groups",
    "clock_hands",
    "coloured_cells",
    "coloured_maps",
    "column_matrix",
    "computation_graph",
    "confusion_matrix",
    "convolution_step",
    "decision_boundary",
    "descent_path",
    "descent_race",
    "describe",
    "digit_map",
    "displacement_map",
    "evidence",
    "heat_over",
    "image_sheet",
    "kernel_grid",
    "letter_map",
    "letter_table",
    "looking_back",
    "lookup",
    "loss_curve",
    "mark_one",
    "matrix",
    "memory_rows",
    "multi_head_flow",
    "norm_plane",
    "normal_circle",
    "operator_graph",
    "painted_scenes",
    "pen_drawing",
    "perceptron_update",
    "pictures",
    "pixel_table",
    "pooling_step",
    "probability_bars",
    "push_and_pull",
    "receptive_pyramid",
    "residual_blocks",
    "residual_sketch",
    "residuals",
    "score_ladder",
    "shaded_text",
    "shared_statistics",
    "shown_letter",
    "spread_and_collect",
    "three_paths",
    "tie_slopes",
    "token_strip",
    "training_run",
    "tree_diagram",
    "two_classes",
    "use_course_style",
    "window_taps",
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
    """A figure as a PNG picture of fixed size and 128 colours, with its alternative text as metadata.

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
    Image.open(buffer).convert("RGB").quantize(128).save(small, format="png", optimize=True)
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
    whole_ticks(ax)
    if validation is not None:
        ax.legend()


def whole_ticks(ax):
    """Place the ticks of the x axis at whole numbers: there is no epoch 2.5."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def plane_grid(x, margin=0.15, resolution=200):
    """A grid over the rectangle around the points `x` (N, 2): the two axes and the (resolution**2, 2) grid points."""
    low, high = x.min(0), x.max(0)
    pad = margin * (high - low)
    first, second = (np.linspace(low[i] - pad[i], high[i] + pad[i], resolution) for i in (0, 1))
    return first, second, np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)


def decision_boundary(ax, x, y, predict=None, *, score=None, margin=None, labels=None, resolution=200):
    """Draw points `x` (N, 2) of classes `y` over the regions that a classifier assigns.

    Give `predict`, which maps (M, 2) points to M class labels, or `score`, which maps them to M real scores whose sign
    decides between two classes; with `score`, the line where it equals 0 and, dashed, those at plus and minus `margin`
    are drawn. M is `resolution` squared: less for a slow classifier.
    """
    first, second, grid = plane_grid(np.asarray(x), resolution=resolution)
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
            s=18 if len(x) > 8 else 110,  # the four points of XOR should be seen
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
    for sign, marker, colour in ((-1, "o", PALETTE[2]), (1, "s", PALETTE[3])):
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
        question = f"{features[tree.feature[node]]}\n≤ {tree.threshold[node]:.5g} ?" if inner else f"{classes[winner]}"
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
    for ax in axes[:2]:
        whole_ticks(ax)


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


# ---- chapter 06: convolution ----


def pixel_table(ax, values, *, signed=False, frame=None, title=None, known=None):
    """Draw a table of numbers as cells with their values: grey for pixels, or blue and red where `signed`.

    frame : (row, column, height, width) of a window to outline. known : booleans, False where a cell stays empty.
    """
    from matplotlib.patches import Rectangle

    values = np.atleast_2d(values)
    known = np.ones(values.shape, bool) if known is None else known
    limit = np.abs(values[known]).max(initial=0) or 1
    shown = np.ma.masked_where(~known, values)
    low, high, cmap = (-limit, limit, DIVERGING) if signed else (0, 1.6 * limit, "gray_r")
    ax.imshow(shown, cmap=cmap, vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(values):
        if known[i, j]:
            ax.text(j, i, f"{value:.3g}".replace("-", "\u2212"), ha="center", va="center", fontsize=9,
                    color="white" if signed and abs(value) > 0.7 * limit else "black")
    for edge in range(values.shape[0] + 1):
        ax.plot([-0.5, values.shape[1] - 0.5], [edge - 0.5] * 2, color="#cccccc", linewidth=0.6)
    for edge in range(values.shape[1] + 1):
        ax.plot([edge - 0.5] * 2, [-0.5, values.shape[0] - 0.5], color="#cccccc", linewidth=0.6)
    if frame is not None:
        row, column, height, width = frame
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), width, height, fill=False, edgecolor=PREDICTION, linewidth=2.8,
                               zorder=3))
    ax.set(xticks=[], yticks=[], xlim=(-0.7, values.shape[1] - 0.3), ylim=(values.shape[0] - 0.3, -0.7))
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
    if title is not None:
        ax.set_title(title, fontsize=10)


def convolution_step(axes, picture, kernel, result, place):
    """Draw one step of a convolution in three axes: the window in the picture, the kernel, the map filled so far.

    result : the whole map (Ho, Wo). place : (row, column) of the number that is computed now.
    """
    (row, column), (height, width) = place, kernel.shape
    order = np.arange(result.size).reshape(result.shape)
    pixel_table(axes[0], picture, frame=(row, column, height, width), title=f"picture {picture.shape}")
    pixel_table(axes[1], kernel, signed=True, title=f"kernel {kernel.shape}")
    pixel_table(axes[2], result, signed=True, frame=(row, column, 1, 1), known=order <= order[place],
                title=f"map {result.shape}, so far")


def window_taps(ax, size, kernel_size, stride=1, padding=0, dilation=1, *, shown=2):
    """Draw a convolution along one axis: the cells below, padding hatched, the outputs above, the first ones with their taps."""
    from matplotlib.patches import Rectangle

    outputs = (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1
    for cell in range(-padding, size + padding):
        inside = 0 <= cell < size
        ax.add_patch(Rectangle((cell - 0.42, -0.42), 0.84, 0.84, facecolor="#d9d9d9" if inside else "white", edgecolor=DATA,
                               linewidth=0.8, hatch=None if inside else "////"))
    reach = dilation * (kernel_size - 1) / 2
    for output in range(outputs):
        start = output * stride - padding
        strong = output < shown
        colour = PALETTE[(0, 1, 2)[output % 3]]
        ax.add_patch(Rectangle((start + reach - 0.42, 2.08), 0.84, 0.84, facecolor=colour, edgecolor=DATA, linewidth=0.8,
                               alpha=0.85 if strong else 0.25))
        for tap in range(kernel_size) if strong else ():
            ax.plot([start + tap * dilation, start + reach], [0.45, 2.05], color=colour, linewidth=1.3)
    ax.text(-padding - 0.7, 0, f"{size}", ha="right", va="center", fontsize=9)
    ax.text(-padding - 0.7, 2.5, f"{outputs}", ha="right", va="center", fontsize=9)
    ax.set(xlim=(-padding - 2, size + padding), ylim=(-0.7, 3.2), aspect="equal")
    ax.set_axis_off()


def channel_groups(ax, inputs, outputs, groups):
    """Draw which input channel reaches which output channel of a convolution with `groups`, each group in its colour."""
    heights = [np.linspace(1, 0, count) if count > 1 else np.array([0.5]) for count in (inputs, outputs)]
    for j in range(outputs):
        group = j * groups // outputs
        colour = PALETTE[group % len(PALETTE)]
        for i in range(inputs):
            if i * groups // inputs == group:
                ax.plot([0, 1], [heights[0][i], heights[1][j]], color=colour, linewidth=1.2, zorder=1)
        ax.scatter([1], [heights[1][j]], s=120, marker="s", color=colour, edgecolor="black", linewidth=0.6, zorder=2)
    ax.scatter(np.zeros(inputs), heights[0], s=120, marker="s", color="#d9d9d9", edgecolor="black", linewidth=0.6, zorder=2)
    for x, text in ((0, f"{inputs} in"), (1, f"{outputs} out")):
        ax.text(x, -0.2, text, ha="center", va="top", fontsize=9)
    ax.set(xlim=(-0.3, 1.3), ylim=(-0.35, 1.15))
    ax.set_axis_off()


def memory_rows(ax, size, rows, *, xlabel="place in memory (numbers from the start)"):
    """Draw memory as a line of `size` cells, and below it, for each entry of `rows`, the cells that it uses.

    rows : table from names to places. Touching places form one run; the number of runs stands at the right.
    """
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((0, 0.1), size, 0.8, facecolor="#d9d9d9", edgecolor=DATA, linewidth=0.8))
    for place in range(1, size):
        ax.plot([place, place], [0.1, 0.9], color="white", linewidth=0.7)
    for line, (name, places) in enumerate(rows.items(), 1):
        places, colour = np.sort(np.ravel(places)), PALETTE[(line - 1) % 4]
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        for run in runs:
            ax.add_patch(Rectangle((run[0], -line + 0.1), len(run), 0.8, facecolor=colour, edgecolor="white", linewidth=0.7))
        ax.text(-0.01 * size, -line + 0.5, name, ha="right", va="center", fontsize=9)
        text = f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {len(runs[0])}"
        ax.text(1.01 * size, -line + 0.5, text, ha="left", va="center", fontsize=9)
    ax.text(-0.01 * size, 0.5, "memory", ha="right", va="center", fontsize=9)
    ax.set(xlim=(0, size), ylim=(-len(rows), 1.1), yticks=[], xlabel=xlabel)
    ax.grid(False)
    ax.spines["left"].set_visible(False)


def column_matrix(axes, picture, kernel):
    """Draw a convolution as a product in four axes: picture, matrix with one window a row, kernel as a column, result.

    Each pixel has a colour of its own, so that its copies in the matrix can be found.
    """
    windows = np.lib.stride_tricks.sliding_window_view(picture, kernel.shape)
    names = np.lib.stride_tricks.sliding_window_view(np.arange(picture.size).reshape(picture.shape), kernel.shape)
    colours = matplotlib.colormaps["nipy_spectral"](np.linspace(0.05, 0.97, picture.size))
    colours = 0.45 * colours[:, :3] + 0.55  # pale, so that numbers can be read on them
    rows, count = windows[..., 0, 0].size, kernel.size

    def cells(ax, numbers, colour, title, sign=None):
        ax.imshow(colour, aspect="equal")
        for (i, j), number in np.ndenumerate(numbers):
            ax.text(j, i, f"{number:g}".replace("-", "\u2212"), ha="center", va="center", fontsize=9)
        ax.set_title(title, fontsize=10)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for side in ax.spines.values():
            side.set(visible=True, color="#cccccc")
        if sign is not None:
            ax.annotate(sign, (-0.5, (len(numbers) - 1) / 2), (-14, 0), textcoords="offset points", fontsize=14, ha="center",
                        va="center", annotation_clip=False)

    def signed(numbers):
        limit = np.abs(numbers).max() or 1
        return DIVERGING((0.6 * numbers / limit + 1) / 2)[..., :3]

    matrix = windows.reshape(rows, count)
    result = matrix @ kernel.reshape(-1, 1)
    cells(axes[0], picture, colours[np.arange(picture.size).reshape(picture.shape)], f"picture {picture.shape}")
    cells(axes[1], matrix, colours[names.reshape(rows, count)], f"one window a row {matrix.shape}", "→")
    cells(axes[2], kernel.reshape(-1, 1), signed(kernel.reshape(-1, 1)), f"kernel\n{(count, 1)}", "@")
    cells(axes[3], result, signed(result), f"result\n{result.shape}", "=")


def spread_and_collect(axes):
    """Draw in two axes who sends a gradient to whom in a 3 x 3 convolution: one output to nine pixels, nine to one pixel."""
    from matplotlib.patches import Rectangle

    taps = np.array(list("123456789")).reshape(3, 3)

    def grid(ax, side, x, y, colours, texts):
        for (i, j), colour in np.ndenumerate(colours):
            ax.add_patch(Rectangle((x + j, y - i), 0.94, 0.94, facecolor=colour or "#eeeeee", edgecolor=DATA, linewidth=0.5,
                                   alpha=0.9))
            ax.text(x + j + 0.47, y - i + 0.45, texts[i, j], ha="center", va="center", fontsize=11)

    def empty(side):
        return np.full((side, side), "", object), np.full((side, side), "", object)

    orange, pale = GRADIENT, "#f6dfae"
    for ax, title in zip(axes, ("one output spreads its gradient", "one pixel collects its gradient"), strict=True):
        small, small_text = empty(5)
        large, large_text = empty(7)
        if title.startswith("one output"):
            small[2, 2], small_text[2, 2] = orange, "G"
            large[2:5, 2:5], large_text[2:5, 2:5] = pale, taps
            ends = [((2.47, 6.4), (10.5, 6.4 + k)) for k in (-1.45, 1.45)]
        else:
            large[3, 3], large_text[3, 3] = orange, "?"
            small[1:4, 1:4], small_text[1:4, 1:4] = pale, taps[::-1, ::-1]
            ends = [((4.0, 6.4 + k), (11.47, 6.4)) for k in (-1.45, 1.45)]
        grid(ax, 5, 0, 8, small, small_text)
        grid(ax, 7, 8, 9, large, large_text)
        for start, end in ends:
            ax.plot(*zip(start, end, strict=True), color=orange, linewidth=1.2, linestyle="dotted")
        ax.text(2.5, 3.7, "∂L/∂Y", ha="center", va="top", fontsize=11)
        ax.text(11.5, 2.7, "∂L/∂X", ha="center", va="top", fontsize=11)
        ax.set(xlim=(-0.3, 15.2), ylim=(1.9, 10.2), aspect="equal", title=title)
        ax.set_axis_off()


def coloured_maps(ax, maps, under=None):
    """Draw non-negative maps (M, H, W) over each other, each in its own colour by its strength, on white or on `under` (H, W)."""
    maps = np.asarray(maps, dtype=float)
    strength = np.clip(maps / (maps.max() or 1), 0, 1) ** 0.6
    paint = np.array([matplotlib.colors.to_rgb(PALETTE[i % len(PALETTE)]) for i in range(len(maps))])
    paper = 1.0 if under is None else 1 - 0.2 * np.asarray(under, dtype=float)[..., None] / np.max(under)
    ax.imshow(paper * (1 - strength[..., None] * (1 - paint[:, None, None])).prod(0), interpolation="nearest")
    ax.set_axis_off()


def block_flow(ax, pictures=8, block=2, threads=2):
    """Sketch a convolution in blocks: each thread takes its part of the batch through one small buffer of its own."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    def cell(x, y, width, height, colour, alpha=1.0):
        ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=0.6, alpha=alpha))

    def arrow(start, end, colour):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4})

    share = pictures // threads
    for thread in range(threads):
        colour, middle = PALETTE[thread], -(thread + 0.5) * share
        ax.add_patch(FancyBboxPatch((2.5, middle - 1.25), 5.2, 2.5, boxstyle="round,pad=0.15", facecolor="#f2f2f2",
                                    edgecolor=DATA, linewidth=0.8))
        ax.text(5.1, middle + 1.42, f"core {thread + 1} and its cache", ha="center", va="bottom", fontsize=8)
        for i in range(thread * share, (thread + 1) * share):
            now = i < thread * share + block
            for x, width in ((0, 0.85), (9.6, 0.6)):
                cell(x, -i - 0.95, width, 0.9, colour, 0.85 if now else 0.25)
        for i in range(6):
            cell(3.0, middle + 0.75 - 0.28 * i, 1.9, 0.28, colour, 0.55)
        cell(5.75, middle - 0.75, 0.55, 1.5, "white")
        ax.text(5.33, middle, "@", ha="center", va="center", fontsize=12)
        ax.text(3.95, middle - 1.0, "windows", ha="center", va="center", fontsize=8)
        ax.text(6.03, middle, "W", ha="center", va="center", fontsize=9)
        first = -(thread * share + block / 2)
        arrow((0.95, first), (2.9, middle), colour)
        arrow((6.45, middle), (9.5, first), colour)
    for x, text in ((0.42, "pictures"), (9.9, "maps")):
        ax.text(x, 0.25, text, ha="center", va="bottom", fontsize=9)
    ax.set(xlim=(-0.4, 10.7), ylim=(-pictures - 0.2, 1.0))
    ax.set_axis_off()


def receptive_pyramid(ax, layers):
    """Draw, along one axis, all that a unit of the last of `layers`, (kernel, stride, dilation), sees below it."""
    jumps, firsts, size = [1], [0.0], 1
    for kernel, stride, dilation in layers[::-1]:
        size = (size - 1) * stride + dilation * (kernel - 1) + 1  # how many units of the layer below are needed
    count = size
    counts = [count]
    for kernel, stride, dilation in layers:
        firsts.append(firsts[-1] + dilation * (kernel - 1) / 2 * jumps[-1])
        count = (count - dilation * (kernel - 1) - 1) // stride + 1
        jumps.append(jumps[-1] * stride)
        counts.append(count)
    reached = {len(layers): {0}}
    for level in range(len(layers), 0, -1):
        kernel, stride, dilation = layers[level - 1]
        reached[level - 1] = {unit * stride + tap * dilation for unit in reached[level] for tap in range(kernel)}
        for unit in reached[level]:
            for tap in range(kernel):
                below = firsts[level - 1] + (unit * stride + tap * dilation) * jumps[level - 1]
                ax.plot([below, firsts[level] + unit * jumps[level]], [level - 1, level], color=PREDICTION, linewidth=0.6,
                        alpha=0.6, zorder=1)
    for level, units in enumerate(counts):
        places = firsts[level] + np.arange(units) * jumps[level]
        seen = np.isin(np.arange(units), list(reached[level]))
        ax.scatter(places, np.full(units, level), s=120 / size**0.6, zorder=2, edgecolor=DATA, linewidth=0.4,
                   color=[PREDICTION if s else "white" for s in seen])
    ax.set(yticks=range(len(counts)), xlabel=f"{size} pixels", xticks=[], ylim=(-0.5, len(layers) + 0.4))
    ax.set_yticklabels(["pixels", *(f"layer {i + 1}" for i in range(len(layers)))], fontsize=8)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)


def kernel_grid(axes, kernels):
    """Draw small kernels (N, h, w), one in each of `axes`: white at zero, blue below, red above, each on its own scale."""
    for ax, kernel in zip(np.ravel(axes), kernels, strict=False):
        limit = np.abs(kernel).max() or 1
        ax.imshow(kernel, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.grid(False)


def heat_over(ax, picture, heat, *, cmap="gray_r", alpha=0.7):
    """Draw a picture (H, W), faintly, or (H, W, 3), and over it `heat` from 0 up: pixels (H, W), or a coarser map as levels."""
    height, width = np.shape(picture)[:2]
    faint = {"vmin": 0, "vmax": 2.5 * np.max(picture)} if np.ndim(picture) == 2 else {}
    ax.imshow(picture, cmap=cmap, interpolation="nearest", extent=(0, width, height, 0), **faint)
    strength = np.asarray(heat, float) / (np.max(heat) or 1)
    if strength.shape == (height, width):
        opaque = alpha * np.round(5 * strength) / 5
        ax.imshow(strength, cmap="YlOrRd", vmin=0, vmax=1, alpha=opaque, interpolation="nearest", extent=(0, width, height, 0))
    else:
        levels = [0.2, 0.4, 0.6, 0.8, 1.01]
        ax.contourf(*_centres(strength, height, width), levels=levels, cmap="YlOrRd", vmin=0, vmax=1, alpha=alpha)
    ax.set_axis_off()


def _centres(cells, height, width):
    """Cells (h, w) with a rim of copies, and where their centres lie in a picture of the given size: x, y, cells."""
    ys, xs = (np.clip((np.arange(n + 2) - 0.5) * size / n, 0, size) for n, size in zip(cells.shape, (height, width), strict=True))
    return xs, ys, np.pad(cells, 1, mode="edge")


def evidence(ax, picture, cells):
    """Draw what speaks for (red) and against (blue): `cells` (h, w), as levels, under the outline of a picture (H, W)."""
    height, width = picture.shape
    limit = np.abs(cells).max() or 1
    xs, ys, cells = _centres(cells, height, width)
    ax.contourf(xs, ys, cells / limit, levels=np.linspace(-1, 1, 10), cmap=DIVERGING, vmin=-1, vmax=1)
    pixels = np.arange(width) + 0.5, np.arange(height) + 0.5
    ax.contour(*pixels, picture, levels=[0.4 * picture.max()], colors="black", linewidths=0.8)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_axis_off()


def image_sheet(ax, images, columns, *, cmap="gray_r", gap=2, vmin=None, vmax=None):
    """Draw images (N, h, w), or (N, h, w, 3), as one sheet of `columns` columns with white gaps of `gap` pixels between them."""
    images = np.asarray(images, float)
    n, height, width, *colours = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *colours), 1.0 if colours else np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    ax.imshow(sheet, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set_axis_off()


def displacement_map(ax, shares, offsets):
    """Draw `shares` (rows, columns) of right answers, 0 to 1, for pictures moved by `offsets` along both axes."""
    ax.imshow(100 * np.asarray(shares), vmin=0, vmax=100, cmap=SEQUENTIAL)
    ax.set(xticks=range(len(offsets)), yticks=range(len(offsets)))
    ax.set(xlabel="moved right by (pixels)", ylabel="moved down by (pixels)")
    ax.set_xticklabels(offsets)
    ax.set_yticklabels(offsets)
    ax.grid(False)
    for (i, j), share in np.ndenumerate(shares):
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color="white" if share < 0.6 else "black")


def probability_bars(ax, probabilities, names, *, top=3, truth=None):
    """Draw the `top` largest of `probabilities` (C,) as horizontal bars with their names; the true class `truth` in blue."""
    best = np.argsort(-np.asarray(probabilities), kind="stable")[:top][::-1]
    colours = [PREDICTION if i == truth else DATA for i in best]
    ax.barh(range(len(best)), np.asarray(probabilities)[best], color=colours, alpha=0.6, height=0.7)
    for place, i in enumerate(best):
        ax.text(0.04, place, names[i], va="center", fontsize=7.5, color="black")
    ax.set(xlim=(0, 1), xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


SCENES = CIFAR10_CLASSES


def painted_scenes(seed=0):
    """Ten small scenes painted by formula, one for each class of CIFAR-10, in the order of SCENES: bytes (10, 3, 32, 32)."""
    rng = np.random.default_rng(seed)
    return np.stack([_paint(rng, *_SCENES[name]).transpose(2, 0, 1) for name in SCENES])


def _paint(rng, background, shapes, scale=8):
    """One scene (32, 32, 3): bands of colour that blend downwards, then `shapes` over them, then a little grain.

    background : (height, colour) pairs from top to bottom. shapes : (kind, colour, coordinates), in pixels of the scene.
    """
    from PIL import Image, ImageDraw

    heights, colours = zip(*background, strict=True)
    rows = (np.arange(32 * scale) + 0.5) / scale
    bands = np.stack([np.interp(rows, heights, channel) for channel in np.transpose(colours)], axis=1)
    texture = np.kron(rng.normal(0, 5, (16, 16, 1)), np.ones((2 * scale, 2 * scale, 1)))
    canvas = Image.fromarray(np.clip(bands[:, None] + texture, 0, 255).astype(np.uint8))
    brush = ImageDraw.Draw(canvas)
    for kind, colour, places in shapes:
        places = [scale * place for place in places]
        if kind == "line":
            brush.line(places, fill=colour, width=scale)
        else:
            getattr(brush, kind)(places, fill=colour)
    small = np.asarray(canvas, float).reshape(32, scale, 32, scale, 3).mean((1, 3))
    return np.clip(small + rng.normal(0, 5, small.shape), 0, 255).astype(np.uint8)


_SCENES = {
    "airplane": ([(0, (92, 142, 205)), (32, (196, 216, 236))], [
        ("polygon", (178, 184, 194), (15, 15, 19, 15, 22, 8, 20, 8)),
        ("polygon", (176, 40, 44), (25, 15, 28, 7, 30.5, 7, 29, 16)),
        ("ellipse", (236, 238, 242), (2, 13, 30, 19.5)),
        ("polygon", (200, 204, 212), (12, 17, 18, 17, 25, 25, 22, 25)),
        ("ellipse", (120, 126, 138), (13.5, 19, 17, 21)),
        ("polygon", (206, 210, 218), (25, 16.5, 28.5, 16.5, 31.5, 20, 29.5, 20)),
        ("polygon", (60, 74, 96), (3.4, 15.2, 6, 14.3, 6, 15.4)),
        *(("ellipse", (76, 92, 118), (x, 15, x + 0.9, 15.9)) for x in np.arange(8, 25, 1.8))]),
    "automobile": ([(0, (150, 168, 150)), (14, (128, 142, 118)), (17, (120, 118, 114)), (32, (96, 94, 92))], [
        ("ellipse", (52, 52, 54), (2, 23.5, 30, 27)),
        ("polygon", (188, 28, 34), (8, 15, 11.5, 9, 22, 9, 26, 15)),
        ("polygon", (178, 24, 30), (1.5, 24, 2, 17, 7, 15, 27, 15, 30.5, 17.5, 30.5, 24)),
        ("polygon", (86, 108, 128), (9.6, 14.8, 12.3, 10.2, 16, 10.2, 16, 14.8)),
        ("polygon", (86, 108, 128), (17, 14.8, 17, 10.2, 21.4, 10.2, 24.4, 14.8)),
        ("line", (120, 14, 18), (16.5, 15, 16.5, 23)),
        *(("ellipse", (24, 24, 26), (x, 20, x + 7, 27)) for x in (4, 21.5)),
        *(("ellipse", (168, 170, 174), (x, 22, x + 3, 25)) for x in (6, 23.5)),
        ("ellipse", (250, 238, 190), (28.6, 17.8, 30.4, 19.6)), ("rectangle", (250, 120, 90), (1.6, 18, 2.8, 19.5))]),
    "bird": ([(0, (140, 170, 120)), (16, (118, 152, 98)), (32, (96, 128, 84))], [
        ("polygon", (88, 66, 48), (0, 25, 32, 22.5, 32, 25, 0, 27.5)),
        ("polygon", (92, 70, 52), (20, 17, 30, 24, 28, 26.5, 18, 21)),
        ("ellipse", (150, 108, 72), (8, 11, 23, 23)), ("ellipse", (206, 176, 142), (7.5, 14, 16.5, 23)),
        ("polygon", (98, 72, 50), (14, 12.5, 23, 15.5, 26, 21, 17, 19.5)),
        ("ellipse", (140, 98, 64), (5.5, 5.5, 14.5, 14)), ("polygon", (228, 160, 60), (6, 8.5, 6, 11.5, 1.5, 10.4)),
        ("ellipse", (18, 16, 16), (7.6, 8, 9.6, 10)),
        ("line", (72, 54, 40), (13, 22.5, 12.5, 25)), ("line", (72, 54, 40), (16.5, 22.5, 16.5, 25))]),
    "cat": ([(0, (190, 176, 160)), (32, (150, 132, 116))], [
        ("polygon", (120, 112, 108), (3, 32, 8, 22, 24, 22, 29, 32)),
        ("polygon", (124, 116, 110), (5, 14, 5.5, 1.5, 14, 8)), ("polygon", (124, 116, 110), (27, 14, 26.5, 1.5, 18, 8)),
        ("polygon", (206, 158, 150), (7, 10, 7, 4.5, 11, 8)), ("polygon", (206, 158, 150), (25, 10, 25, 4.5, 21, 8)),
        ("ellipse", (134, 126, 120), (4, 6, 28, 27)), ("ellipse", (214, 208, 200), (10, 18, 22, 26.5)),
        *(("line", (78, 72, 70), (x, 7, x, 11)) for x in (13, 16, 19)),
        *(("line", (84, 78, 74), side) for side in ((5, 15, 9, 16), (5, 19, 9, 19), (27, 15, 23, 16), (27, 19, 23, 19))),
        *(("ellipse", (176, 196, 92), (x, 12.5, x + 5, 17)) for x in (8.5, 18.5)),
        *(("ellipse", (14, 14, 14), (x, 12.7, x + 1.8, 16.8)) for x in (10.1, 20.1)),
        ("polygon", (214, 128, 126), (14.4, 19, 17.6, 19, 16, 21)), ("line", (90, 70, 66), (16, 21, 16, 23.5))]),
    "deer": ([(0, (84, 104, 66)), (11, (72, 94, 56)), (14, (124, 146, 78)), (32, (136, 152, 82))], [
        *(("line", (112, 78, 50), (x, 21, x + 0.3, 30)) for x in (10, 13, 22, 25)),
        ("ellipse", (158, 108, 68), (8, 15, 28, 24)), ("polygon", (158, 108, 68), (8.5, 19, 14, 16, 10, 7, 6, 9)),
        ("ellipse", (162, 112, 72), (3, 6, 11, 11.5)), ("ellipse", (90, 66, 50), (2.5, 8.2, 5, 10.2)),
        ("polygon", (150, 104, 66), (9, 7, 13, 5, 11, 9)), ("ellipse", (226, 214, 196), (26, 16, 28.5, 20)),
        *(("line", (96, 74, 54), b) for b in ((7.5, 6.5, 5, 1), (9, 6.5, 11.5, 1), (6, 3.5, 3, 2), (10.4, 3.5, 13.5, 2))),
        ("ellipse", (20, 16, 14), (5.6, 7.4, 6.9, 8.7)), ("ellipse", (196, 152, 108), (10, 20.5, 24, 24))]),
    "dog": ([(0, (124, 150, 96)), (32, (96, 128, 74))], [
        ("polygon", (164, 118, 70), (5, 32, 9, 21, 23, 21, 27, 32)), ("ellipse", (238, 226, 208), (11, 24, 21, 36)),
        ("ellipse", (178, 130, 78), (6, 4, 26, 25)), ("ellipse", (112, 72, 40), (2, 6, 9.5, 21)),
        ("ellipse", (112, 72, 40), (22.5, 6, 30, 21)), ("ellipse", (232, 212, 182), (10, 13.5, 22, 25.5)),
        ("polygon", (232, 212, 182), (14.6, 5, 17.4, 5, 18, 15, 14, 15)),
        *(("ellipse", (28, 20, 16), (x, 10.5, x + 2.8, 13.4)) for x in (10.2, 19)),
        ("ellipse", (20, 18, 18), (13.3, 14.8, 18.7, 18.4)), ("line", (70, 48, 40), (16, 18, 16, 20.6)),
        ("ellipse", (214, 112, 116), (14, 20.4, 18, 25.6))]),
    "frog": ([(0, (126, 106, 78)), (32, (96, 78, 56))], [
        ("ellipse", (70, 112, 38), (2, 14, 11, 28)), ("ellipse", (70, 112, 38), (21, 14, 30, 28)),
        ("ellipse", (98, 148, 52), (6, 11, 26, 28)), ("ellipse", (178, 196, 110), (10, 19.5, 22, 28)),
        ("ellipse", (104, 156, 56), (6.5, 7, 25.5, 19)),
        *(("ellipse", (112, 164, 60), (x, 4.5, x + 6.5, 11)) for x in (6.5, 19)),
        *(("ellipse", (226, 190, 60), (x, 5.6, x + 4.4, 10)) for x in (7.5, 20)),
        *(("ellipse", (12, 12, 10), (x, 6.6, x + 2.4, 9)) for x in (8.5, 21)),
        ("line", (56, 84, 30), (9, 15.3, 16, 16.8)), ("line", (56, 84, 30), (16, 16.8, 23, 15.3)),
        *(("ellipse", (62, 98, 34), (x, y, x + 2, y + 2))
          for x, y in ((9, 20), (21, 20), (13, 11.6), (17.5, 11.8), (4, 20), (26, 20))),
        *(("polygon", (88, 136, 46), (x, 26, x + 5, 26, x + 6, 30, x - 1, 30)) for x in (6, 21))]),
    "horse": ([(0, (168, 196, 222)), (13, (196, 212, 222)), (15, (104, 134, 72)), (32, (112, 144, 70))], [
        *(("polygon", (92, 54, 30), (x, 19, x + 2.4, 19, x + 1.8, 30, x + 0.2, 30)) for x in (9.5, 12.5, 22, 24.8)),
        ("polygon", (44, 28, 20), (27, 14.5, 30.5, 17, 30, 25, 28.4, 25)),
        ("ellipse", (122, 72, 40), (8, 12, 28.5, 22.5)), ("polygon", (122, 72, 40), (8.4, 18, 15, 13, 10.5, 4, 6, 6)),
        ("polygon", (126, 76, 42), (10.5, 3.6, 6, 4.6, 1.6, 11, 4, 13, 9.5, 9)),
        ("polygon", (40, 24, 18), (9.5, 3, 16, 12.5, 13.5, 14, 8.8, 5)),
        ("polygon", (112, 66, 36), (8, 4.6, 9.8, 1.4, 10.8, 4.4)),
        ("ellipse", (16, 12, 10), (6.1, 5.6, 7.4, 6.9))]),
    "ship": ([(0, (136, 176, 216)), (16, (204, 220, 232)), (17, (58, 98, 138)), (32, (34, 70, 108))], [
        ("polygon", (150, 30, 30), (3.4, 21.8, 29, 21.8, 28, 24, 5, 24)),
        ("polygon", (42, 46, 58), (1, 16, 31, 16, 29, 22, 3.5, 22)),
        ("rectangle", (236, 238, 240), (6, 12, 25, 16)), ("rectangle", (226, 228, 232), (8.5, 8.6, 22, 12)),
        ("rectangle", (214, 216, 222), (10, 6, 14, 8.8)), ("polygon", (196, 60, 44), (16, 8.6, 16.4, 3.4, 19.6, 3.4, 20, 8.6)),
        ("rectangle", (30, 30, 34), (16.3, 3.2, 19.7, 4.4)), ("line", (90, 94, 100), (12, 6, 12, 1.6)),
        *(("rectangle", (70, 92, 120), (x, 13.2, x + 1, 14.4)) for x in np.arange(7.5, 24, 2.2)),
        *(("rectangle", (70, 92, 120), (x, 9.8, x + 1, 11)) for x in np.arange(9.6, 21, 2.2)),
        ("polygon", (208, 222, 232), (0, 25, 6, 23.4, 30, 23.4, 32, 25, 16, 24.6))]),
    "truck": ([(0, (176, 198, 220)), (17, (206, 214, 220)), (20, (120, 118, 114)), (32, (92, 90, 88))], [
        ("ellipse", (50, 50, 52), (1, 25, 31, 29)),
        ("rectangle", (226, 226, 222), (1.5, 5.5, 20.5, 22.5)), ("rectangle", (190, 192, 192), (1.5, 19.5, 20.5, 22.5)),
        *(("line", (204, 204, 202), (x, 6, x, 19)) for x in (6, 11, 16)),
        ("polygon", (32, 82, 154), (21.3, 24.5, 21.3, 9, 27.4, 9, 30.6, 15.5, 30.6, 24.5)),
        ("polygon", (150, 178, 200), (24, 14.6, 24, 10.4, 26.9, 10.4, 29, 14.6)),
        ("rectangle", (58, 60, 64), (1.5, 22.5, 24, 24.4)),
        *(("ellipse", (22, 22, 24), (x, 21.8, x + 6, 27.8)) for x in (2.6, 9, 23.4)),
        *(("ellipse", (150, 152, 156), (x, 23.7, x + 2.2, 25.9)) for x in (4.5, 10.9, 25.3)),
        ("rectangle", (250, 232, 170), (29.4, 19, 30.6, 20.8))]),
}


def _cells(ax, origin, shape, colours, *, side=1.0, numbers=None):
    """Draw cells of `side` with their upper left corner at `origin`; `colours` and `numbers` are tables of that shape."""
    from matplotlib.patches import Rectangle

    for i, j in np.ndindex(*shape):
        x, y = origin[0] + j * side, origin[1] - (i + 1) * side
        ax.add_patch(Rectangle((x, y), side, side, facecolor=colours[i][j], edgecolor="white", linewidth=0.7))
        if numbers is not None:
            text = f"{numbers[i][j]:.3g}".replace("-", "\u2212")
            ax.text(x + side / 2, y + side / 2, text, ha="center", va="center", fontsize=9)


def _arrow(ax, start, end, colour, *, bend=0.0, width=1.6, style="-|>"):
    """An arrow from `start` to `end`, bent to its right by `bend`."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": style, "color": colour, "linewidth": width, "shrinkA": 0,
                                            "shrinkB": 0, "connectionstyle": f"arc3,rad={bend}"})


def pooling_step(axes, picture, size, pooled, gradient, returned):
    """Draw pooling there and back in four axes: the picture in windows of `size`, the result, its gradient, and what returns.

    Windows alternate between two tints; the largest number of each is framed, the first one where several are equal.
    """
    from matplotlib.patches import Rectangle

    tints = np.array([[PALETTE[4], PALETTE[2]], [PALETTE[2], PALETTE[4]]])
    wide = np.array([[tints[i // size % 2, j // size % 2] for j in range(picture.shape[1])] for i in range(picture.shape[0])])
    small = wide[::size, ::size]
    tables = ((picture, wide, "pixels"), (pooled, small, "largest of each window"),
              (gradient, small, "gradient of the result"), (returned, wide, "gradient of the pixels"))
    for ax, (values, colours, title) in zip(axes, tables, strict=True):
        pale = [[(*matplotlib.colors.to_rgb(c), 0.3) for c in row] for row in colours]
        _cells(ax, (0, 0), values.shape, pale, numbers=values)
        ax.set(xlim=(-0.1, values.shape[1] + 0.1), ylim=(-values.shape[0] - 0.1, 0.1), aspect="equal")
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    for i, j in np.ndindex(*pooled.shape):
        window = picture[i * size : (i + 1) * size, j * size : (j + 1) * size]
        row, column = np.unravel_index(np.argmax(window), window.shape)
        for ax in (axes[0], axes[3]):
            ax.add_patch(Rectangle((j * size + column + 0.05, -i * size - row - 0.95), 0.9, 0.9, fill=False,
                                   edgecolor=ERROR, linewidth=2))


def tie_slopes(ax, candidates, reach=1.0):
    """Draw the level lines of max(a, b) around a tie, and `candidates` {name: (da, db, colour)} for a gradient there."""
    for level in np.linspace(-0.75, 0.75, 7) * reach:
        ax.plot([-reach, level, level], [level, level, -reach], color=DATA, linewidth=0.9)
        ax.text(-0.97 * reach, level + 0.02, f"max = {level:.2g}".replace("-", "\u2212"), color=DATA, fontsize=7, va="bottom")
    ax.plot([-reach, reach], [-reach, reach], color="black", linestyle="dotted", linewidth=1.2)
    ax.plot([0.8 * reach, 0], [0, 0.8 * reach], color=PALETTE[2], linewidth=6, alpha=0.35, solid_capstyle="round")
    for name, (da, db, colour) in sorted(candidates.items(), key=lambda item: -sum(item[1][:2])):  # the longest first
        _arrow(ax, (0, 0), (0.8 * reach * da, 0.8 * reach * db), colour, width=2.2)
        ax.text(0.8 * reach * da + 0.05, 0.8 * reach * db - 0.1, name, color=colour, fontsize=10, weight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    ax.set(xlim=(-reach, 1.25 * reach), ylim=(-reach, 1.1 * reach), aspect="equal", xlabel="first number of the window, a",
           ylabel="second number, b", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.grid(False)


def adaptive_cells(ax, size, counts):
    """Draw along one axis of `size` pixels which of them each cell of an adaptive pooling averages, a row for each count."""
    from matplotlib.patches import Rectangle

    lines = [(0, [(i, i + 1) for i in range(size)])]
    lines += [(m, [(size * i // m, -(-size * (i + 1) // m)) for i in range(m)]) for m in counts]
    top, ticks = 0.0, []
    for m, cells in lines:
        overlapping = any(stop > start for (_, stop), (start, _) in pairwise(cells))
        ticks.append((top - (0.55 if overlapping else 0.3), f"{size} pixels" if m == 0 else f"{m} cell" + "s" * (m > 1)))
        for i, (first, last) in enumerate(cells):
            y = top - 0.6 - (0.55 if overlapping and i % 2 else 0.0)
            ax.add_patch(Rectangle((first + 0.06, y), last - first - 0.12, 0.45, alpha=0.75,
                                   facecolor="#dddddd" if m == 0 else PALETTE[i % 5], edgecolor="black", linewidth=0.6))
            text = f"{i}" if m == 0 else f"1/{last - first}"
            ax.text((first + last) / 2, y + 0.22, text, ha="center", va="center", fontsize=8)
        top -= 1.6 if overlapping else 1.0
    ax.set(xlim=(-0.2, size + 0.2), ylim=(top, 0.1), xticks=[], yticks=[y for y, _ in ticks])
    ax.set_yticklabels([text for _, text in ticks])
    ax.tick_params(length=0)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def shared_statistics(ax, pictures=4, channels=3, side=4):
    """Draw a batch of maps as cells: those of one colour, a channel in all pictures, share one mean and one variance."""
    step = 0.25 * side + 0.35
    for n, c in np.ndindex(pictures, channels):
        _cells(ax, (n * step, -c * step), (side, side), [[PALETTE[c]] * side] * side, side=0.25)
    for c in range(channels):
        y = -c * step - 0.125 * side
        _arrow(ax, (pictures * step - 0.25, y), (pictures * step + 0.35, y), PALETTE[c])
        ax.text(pictures * step + 0.45, y, rf"$\mu_{c},\ \sigma^2_{c}$, then $\gamma_{c},\ \beta_{c}$", va="center", fontsize=11)
        ax.text(-0.15, y, f"channel {c}", ha="right", va="center", fontsize=9)
    for n in range(pictures):
        ax.text(n * step + 0.125 * side, 0.12, f"picture {n}", ha="center", fontsize=9)
    ax.set(xlim=(-1.1, pictures * step + 2.3), ylim=(-channels * step + 0.25, 0.4), aspect="equal")
    ax.set_axis_off()


def three_paths(ax):
    """Draw how one number of a batch reaches the normalised ones: directly, through the mean, through the variance."""
    places = {"x": (0, 0), "mu": (1.5, 1.25), "c": (3.2, 0), "var": (4.6, -1.25),
              "r": (6.6, -1.25), "n": (8.0, 0), "L": (10.6, 0)}
    texts = {"x": r"$x_j$", "mu": r"$\mu=\frac{1}{M}\sum x_i$", "c": r"$c_i=x_i-\mu$",
             "var": r"$\sigma^2=\frac{1}{M}\sum c_i^2$", "r": r"$r=\frac{1}{\sqrt{\sigma^2+\varepsilon}}$",
             "n": r"$\hat{x}_i=c_i\,r$", "L": r"$y_i=\gamma\hat{x}_i+\beta\ \to\ L$"}
    paths = [(PREDICTION, ("x", "c", "n"), "1. directly, for i = j only"),
             (PALETTE[2], ("x", "mu", "c"), "2. through the mean, to every i"),
             (PALETTE[3], ("c", "var", "r", "n"), "3. through the variance, to every i")]
    half = {"x": 0.2, "mu": 0.58, "c": 0.6, "var": 0.66, "r": 0.6, "n": 0.5, "L": 0.95}
    for colour, stops, _ in paths:
        for start, end in pairwise(stops):
            (x0, y0), (x1, y1) = places[start], places[end]
            if y0 == y1:
                ends = (x0 + half[start], y0), (x1 - half[end], y1)
            elif start in ("x", "c"):  # leaves its box upwards or downwards
                ends = (x0 + 0.1, y0 + 0.28 * np.sign(y1 - y0)), (x1 - half[end], y1)
            else:
                ends = (x0 + half[start], y0), (x1 - 0.1, y1 + 0.28 * np.sign(y0 - y1))
            _arrow(ax, *ends, colour, width=2)
    _arrow(ax, (places["n"][0] + half["n"], 0), (places["L"][0] - half["L"], 0), DATA, width=2)
    for name, (x, y) in places.items():
        ax.text(x, y, texts[name], ha="center", va="center", fontsize=12,
                bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": DATA})
    for (colour, _, text), place in zip(paths, ((5.4, 0.27), (2.6, 1.45), (2.2, -1.7)), strict=True):
        ax.text(*place, text, color=colour, fontsize=9, ha="center" if place[1] == 0.27 else "left")
    ax.set(xlim=(-0.6, 11.8), ylim=(-1.95, 1.85))
    ax.set_axis_off()


def normal_circle(ax, x, upstream):
    """Draw batch norm of three numbers in the plane of vectors whose sum is 0: normalised they lie on a circle.

    x : (3,), upstream : (3,) a gradient by the normalised numbers. What of it survives is the part along the circle.
    """
    axes = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    centred, pull = axes @ (x - x.mean()), axes @ upstream
    along = centred / np.linalg.norm(centred)
    place = 3**0.5 * along
    kept = pull - along * (pull @ along)
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(3**0.5 * np.cos(turn), 3**0.5 * np.sin(turn), color=DATA, linewidth=1.2)
    ax.plot([0, 3.6 * along[0]], [0, 3.6 * along[1]], color=DATA, linewidth=1, linestyle="dashed")
    ax.plot(*centred, "o", color=DATA)
    ax.plot(*place, "o", color=PREDICTION, zorder=4)
    _arrow(ax, place, place + pull, GRADIENT, width=2)
    _arrow(ax, place, place + kept, ERROR, width=2.4)
    ax.plot(*np.stack([place + pull, place + kept]).T, color=DATA, linestyle="dotted", linewidth=1.2)
    for at, text, colour, offset, side in (
        (centred, "x, centred", "black", (9, -9), "left"),
        (place, r"$\hat{x}$", PREDICTION, (-9, -13), "right"),
        (place + pull, r"$h=\partial L/\partial\hat{x}$, without its mean", GRADIENT, (6, 4), "left"),
        (place + kept, "what is left of it:\nalong the circle", ERROR, (-8, 0), "right"),
        (3.6 * along, "every x on this ray\ngives the same output", DATA, (6, -4), "left"),
    ):
        ax.annotate(text, at, xytext=offset, textcoords="offset points", color=colour, fontsize=9, ha=side)
    ax.plot(0, 0, "+", color="black")
    ax.set(xlim=(-2.6, 5.4), ylim=(-1.9, 3.4), aspect="equal")
    ax.set_axis_off()


def residual_sketch(ax, blocks=3):
    """Draw `blocks` residual blocks in a row: the signal's way above, the gradient's way back below."""
    from matplotlib.patches import Circle, FancyBboxPatch

    for back, level in ((False, 0.0), (True, -2.3)):
        colour = GRADIENT if back else PREDICTION
        for k in range(blocks):
            left = 3.0 * k
            ax.add_patch(FancyBboxPatch((left + 0.85, level + 0.55), 1.0, 0.5, boxstyle="round,pad=0.08", facecolor="white",
                                        edgecolor="black", linewidth=1))
            name = rf"$J_{k + 1}^\top$" if back else rf"$f_{k + 1}$"
            ax.text(left + 1.35, level + 0.8, name, ha="center", va="center", fontsize=12)
            meet, part = (left + 0.25, left + 2.5) if back else (left + 2.5, left + 0.25)
            way = [(part, level), (part, level + 0.8), (left + (1.93 if back else 0.77), level + 0.8)]
            ax.plot(*zip(*way[:2], strict=True), color=colour, linewidth=2)
            _arrow(ax, way[1], way[2], colour, width=2)
            out = (left + (0.77 if back else 1.93), level + 0.8)
            ax.plot([out[0], meet], [out[1]] * 2, color=colour, linewidth=2)
            _arrow(ax, (meet, level + 0.8), (meet, level + 0.17), colour, width=2)
            ax.add_patch(Circle((meet, level), 0.15, facecolor="white", edgecolor="black", zorder=8))
            ax.text(meet, level, "+", ha="center", va="center", fontsize=12, zorder=9)
        ends = (3.0 * blocks + 0.1, -0.5)
        start, stop = ends if back else ends[::-1]
        _arrow(ax, (start, level), (stop, level), colour, width=3)
        first, last = (rf"$\partial L/\partial x_{k}$" if back else f"$x_{k}$" for k in (0, blocks))
        ax.text(-0.6, level, first, ha="right", va="center", fontsize=12, color=colour)
        ax.text(3.0 * blocks + 0.2, level, last, ha="left", va="center", fontsize=12, color=colour)
    ax.set(xlim=(-1.8, 3.0 * blocks + 1.2), ylim=(-2.7, 1.3))
    ax.set_axis_off()


# ---- chapter 07: attention, positions, layer norm ----


def shown_letter(letter):
    """A letter as it can be seen: signs for a space and for the end of a line."""
    return {" ": "\u2423", "\n": "\u21b5"}.get(letter, letter)


def looking_back(ax, rows, passages, place, shares):
    """Draw text that grows: `rows`, each with its last letter new, and beside each the passage where that letter was found.

    place : where in a passage the letter that was copied stands. shares : the probability of each new letter.
    """
    from matplotlib.patches import Rectangle

    width = len(rows[0])
    gap = width + 4
    for i, (row, passage, share) in enumerate(zip(rows, passages, shares, strict=True)):
        matched = [(gap + place - k, PREDICTION, 0.15) for k in range(1, 6)]
        for x, colour, alpha in ((width - 1, ERROR, 0.55), (gap + place, PREDICTION, 0.5), *matched):
            ax.add_patch(Rectangle((x - 0.5, -i - 0.45), 1, 0.9, facecolor=colour, alpha=alpha, linewidth=0))
        for x, letter in [*enumerate(row), *enumerate(passage, gap)]:
            ax.text(x, -i, "\u21b5" if letter == "\n" else letter, ha="center", va="center", family="monospace", fontsize=11)
        ax.text(gap + len(passage) + 3, -i, f"{share:.0%}", ha="right", va="center", fontsize=9)
    end = gap + len(passages[0])
    for x, name in ((width / 2, "written so far"), ((gap + end) / 2, "where it looked most"), (end + 2, "chance")):
        ax.text(x, 1.1, name, ha="center", fontsize=9, color=DATA)
    ax.set(xlim=(-1, gap + len(passages[0]) + 4), ylim=(-len(rows) + 0.4, 1.8))
    ax.set_axis_off()


def letter_table(ax, values, letters, *, xlabel, ylabel):
    """Draw a table of numbers of at least 0 with a row and a column for each letter; returns the image, for a colour bar."""
    image = ax.imshow(values, cmap=LinearSegmentedColormap.from_list("counts", ["#ffffff", PALETTE[4], PREDICTION, "#00263d"]))
    names = [shown_letter(letter) for letter in letters]
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.tick_params(length=0, pad=2)
    ax.grid(False)
    return image


def lookup(ax, table, ids, names, gradient):
    """Draw a lookup and its gradient: the table, the rows that `ids` pick, the gradients of those, and their sums.

    table : (V, C). ids : N row numbers. names : V names of the rows. gradient : (N, C), of the picked rows.
    """
    from matplotlib.patches import Rectangle

    (count, width), places = table.shape, len(ids)
    summed = np.zeros(table.shape)
    np.add.at(summed, ids, gradient)
    gap, top = 2.2, (places - count) / 2
    starts = [0, width + gap, 2 * width + 2 * gap, 3 * width + 3 * gap]
    used = sorted(set(ids))
    colours = {v: PALETTE[(0, 2, 3, 4, 5, 1)[k % 6]] for k, v in enumerate(used)}

    def cells(values, x, lift, colour):
        for (i, j), value in np.ndenumerate(values):
            ax.add_patch(Rectangle((x + j, -i - lift), 0.95, -0.9, facecolor=colour(i), alpha=0.28, linewidth=0))
            ax.text(x + j + 0.47, -i - lift - 0.46, f"{value:g}".replace("-", "\u2212"), ha="center", va="center", fontsize=8)

    def line(start, end, v, arrow):
        ax.annotate("", end, start, arrowprops={"arrowstyle": arrow, "color": colours[v], "linewidth": 1.3, "shrinkA": 0,
                                                "shrinkB": 0})

    cells(table, starts[0], top, lambda v: colours.get(v, DATA))
    cells(table[ids], starts[1], 0, lambda n: colours[ids[n]])
    cells(gradient, starts[2], 0, lambda n: GRADIENT)
    cells(summed, starts[3], top, lambda v: GRADIENT if v in used else DATA)
    for v, name in enumerate(names):
        for x in (starts[0] - 0.35, starts[3] + width + 0.35):
            ax.text(x, -v - top - 0.46, name, ha="center", va="center", fontsize=9)
    for n, v in enumerate(ids):
        line((starts[0] + width + 0.05, -v - top - 0.46), (starts[1] - 0.1, -n - 0.46), v, "-|>")
        line((starts[2] + width + 0.05, -n - 0.46), (starts[3] - 0.1, -v - top - 0.46), v, "-|>")
        ax.text(starts[1] + width + gap / 2, -n - 0.46, names[v], ha="center", va="center", fontsize=9, color=colours[v])
    titles = (f"table {table.shape}", f"picked rows {(places, width)}", f"their gradients {(places, width)}",
              f"the table's gradient {table.shape}")
    for x, title in zip(starts, titles, strict=True):
        ax.text(x + width / 2, 0.75 - (top if x in (starts[0], starts[3]) else 0), title, ha="center", fontsize=9)
    ax.set(xlim=(-0.8, starts[3] + width + 0.8), ylim=(-places - 0.2, 1.4))
    ax.set_axis_off()


def attention_plane(axes, query, keys, values, names):
    """Draw attention of one query in two dimensions: keys and query as arrows, and the result among the values.

    axes : two of them. query : (2,). keys, values : (S, 2). The weights are the softmax of the products.
    """
    scores = keys @ query
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    for key, weight, name in zip(keys, weights, names, strict=True):
        strength = {"color": PREDICTION, "linewidth": 1 + 5 * weight, "alpha": 0.35 + 0.6 * weight}
        axes[0].annotate("", key, (0, 0), arrowprops=arrow | strength)
        axes[0].annotate(f"{name}: {weight:.0%}", key, key * (1.08 + 0.3 / np.linalg.norm(key)), ha="center", va="center",
                         fontsize=8)
    axes[0].annotate("", query, (0, 0), arrowprops=arrow | {"color": ERROR, "linewidth": 2.4})
    axes[0].annotate("query", query, query * (1 + 0.3 / np.linalg.norm(query)), ha="center", va="center", fontsize=8, color=ERROR)
    result = weights @ values
    for value, weight, name in zip(values, weights, names, strict=True):
        axes[1].plot(*zip(value, result, strict=True), color=PREDICTION, linewidth=1 + 5 * weight, alpha=0.15 + 0.4 * weight,
                     zorder=1)
        axes[1].scatter(*value, s=30 + 500 * weight, color=PREDICTION, alpha=0.75, zorder=2, linewidth=0)
        axes[1].annotate(name, value, (0, 11 + 6 * weight), textcoords="offset points", ha="center", fontsize=8)
    axes[1].scatter(*result, s=150, marker="*", color=ERROR, zorder=3)
    for ax in axes:
        ax.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), aspect="equal", xticks=[], yticks=[])
        ax.axhline(0, color=DATA, linewidth=0.5, zorder=0)
        ax.axvline(0, color=DATA, linewidth=0.5, zorder=0)
        ax.grid(False)


def attention_pull(ax, values, weights, g):
    """Draw attention's gradient for one query: values (S, 2) with their weights, the result, and which scores descent raises.

    g : (2,), dL/d(result). The score of value j has the gradient a_j g.(v_j - y): what lies on the side of -g, seen from the
    result y, is raised by descent (blue), what lies on the other side is lowered (orange).
    """
    y = weights @ values
    slope = weights * ((values - y) @ g)
    along = np.array([-g[1], g[0]]) / np.linalg.norm(g)
    ax.plot(*np.transpose([y - 9 * along, y + 9 * along]), color=DATA, linestyle="dashed", linewidth=1, zorder=0)
    for value, weight, d in zip(values, weights, slope, strict=True):
        colour = PREDICTION if d < 0 else GRADIENT
        ax.plot(*zip(y, value, strict=True), color=colour, linewidth=1, alpha=0.6, zorder=1)
        ax.scatter(*value, s=40 + 700 * weight, color=colour, alpha=0.8, zorder=2, linewidth=0)
        text = f"weight {weight:.2f}\nscore {'raised' if d < 0 else 'lowered'}: {-d:+.2f}".replace("-", "\u2212")
        ax.annotate(text, value, (0, 10 + 13 * weight**0.5), textcoords="offset points", ha="center", fontsize=8)
    ax.annotate("", y - g, y, arrowprops={"arrowstyle": "-|>", "color": ERROR, "linewidth": 2.6, "shrinkA": 0, "shrinkB": 0})
    ax.annotate("where the loss\nwants the result", y - g, (2, -8), textcoords="offset points", fontsize=8, color=ERROR, va="top")
    ax.scatter(*y, s=170, marker="*", color=ERROR, zorder=3)
    ax.set(xlim=(-2.3, 2.9), ylim=(-1.9, 2.2), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)


def attention_table(ax, weights, queries=None, keys=None, *, numbers=False, colour=PREDICTION):
    """Draw attention weights (T, S), a row for each query, white at 0; what the causal mask hides stays grey where NaN."""
    weights = np.asarray(weights, float)
    paint = LinearSegmentedColormap.from_list("weights", ["#ffffff", colour])
    paint.set_bad("#dddddd")
    ax.imshow(np.ma.masked_invalid(weights), cmap=paint, vmin=0, vmax=np.nanmax(weights) or 1)
    for (i, j), weight in np.ndenumerate(weights) if numbers else []:
        if np.isfinite(weight):
            ax.text(j, i, f"{weight:.2f}", ha="center", va="center", fontsize=8)
    for names, place in ((keys, ax.set_xticks), (queries, ax.set_yticks)):
        place([] if names is None else range(len(names)), [] if names is None else [shown_letter(n) for n in names])
    ax.tick_params(length=0)
    ax.grid(False)


def attention_tiles(axes, length, rows):
    """Sketch in two axes the scores of causal attention: the whole square, and the bands of `rows` queries that are computed."""
    from matplotlib.patches import Rectangle

    future = np.triu(np.ones((length, length), bool), 1)
    for ax, title in zip(axes, (f"unfused: {length * length} scores, several times", "fused: one band at a time"), strict=True):
        for start in range(0, length, rows):
            end = min(start + rows, length)
            width = length if ax is axes[0] else end
            colour = PALETTE[(start // rows) % 2 * 4] if ax is axes[1] else DATA
            ax.add_patch(Rectangle((0, -end), width, end - start, facecolor=colour, alpha=0.45, edgecolor="white", linewidth=1.5))
        for i, j in np.argwhere(future) if ax is axes[0] else []:
            ax.add_patch(Rectangle((j, -i - 1), 1, 1, facecolor="white", alpha=0.65, hatch="////", edgecolor="#bbbbbb",
                                   linewidth=0))
        ax.plot([0, *np.repeat(np.arange(1, length), 2), length], [*np.repeat(-np.arange(length), 2)], color=ERROR, linewidth=1)
        ax.set(xlim=(-0.3, length + 0.3), ylim=(-length - 0.3, 0.3), aspect="equal", xticks=[], yticks=[])
        ax.set(xlabel="keys", ylabel="queries")
        ax.set_title(title, fontsize=10)
        ax.grid(False)
        for side in ax.spines.values():
            side.set_visible(False)


def multi_head_flow(ax, length=4, heads=2, size=3):
    """Draw the shapes inside multi-head attention for one text: one colour a head, shades for queries, keys and values."""
    from matplotlib.patches import Rectangle

    width = heads * size
    colours = [PALETTE[(0, 2, 3, 1)[h % 4]] for h in range(heads)]

    def block(x, y, columns, colour, label="", triangle=False, rows=length, alpha=0.5):
        for i in range(rows):
            for j in range(columns):
                hidden = triangle and j > i
                ax.add_patch(Rectangle((x + j * 0.5, y - (i + 1) * 0.5), 0.46, 0.46, facecolor="#eeeeee" if hidden else colour,
                                       alpha=1 if hidden else alpha, linewidth=0))
        ax.text(x + columns * 0.25, y - rows * 0.25, label, ha="center", va="center", fontsize=10)

    def note(x, y, text, **options):
        ax.text(x, y, text, ha="center", va="bottom", fontsize=8.5, **options)

    def arrow(x, y, text):
        ax.annotate("", (x + 0.9, y), (x, y), arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.2})
        ax.text(x + 0.42, y + 0.14, text, ha="center", va="bottom", fontsize=8)

    tall = length * 0.5
    x, middle = 0.0, 0.0
    block(x, middle + tall / 2, width, DATA, "x")
    note(x + width / 4, middle + tall / 2 + 0.1, "(B, T, C)")
    x += width * 0.5 + 0.15
    arrow(x, middle, "c_attn")
    x += 1.1
    for part, name in enumerate("qkv"):
        for h in range(heads):
            block(x + (part * heads + h) * size * 0.5, middle + tall / 2, size, colours[h], name, alpha=(0.75, 0.5, 0.28)[part])
    note(x + 3 * width / 4, middle + tall / 2 + 0.1, "(B, T, 3C): queries, keys, values")
    x += 3 * width * 0.5 + 0.15
    arrow(x, middle, "split")
    x += 1.1
    lifts = [(heads - 1) * (tall + 0.6) / 2 - h * (tall + 0.6) for h in range(heads)]
    for h, lift in enumerate(lifts):
        for part, name in enumerate("qkv"):
            block(x + part * (size * 0.5 + 0.15), lift + tall / 2, size, colours[h], name, alpha=(0.75, 0.5, 0.28)[part])
    note(x + 0.75 * size + 0.15, lifts[0] + tall / 2 + 0.1, "each (B, H, T, D)")
    x += 3 * size * 0.5 + 0.45
    for h, lift in enumerate(lifts):
        arrow(x, lift, "softmax" if h == 0 else "")
        block(x + 1.1, lift + tall / 2, length, colours[h], "A", triangle=True)
        arrow(x + 1.2 + tall, lift, "A v" if h == 0 else "")
        block(x + 2.3 + tall, lift + tall / 2, size, colours[h], "y")
    note(x + 1.1 + tall / 2, lifts[0] + tall / 2 + 0.1, "(B, H, T, T)")
    note(x + 2.3 + tall + size / 4, lifts[0] + tall / 2 + 0.1, "(B, H, T, D)")
    x += 2.45 + tall + size * 0.5
    arrow(x, middle, "join")
    x += 1.1
    for h in range(heads):
        block(x + h * size * 0.5, middle + tall / 2, size, colours[h], "y")
    note(x + width / 4, middle + tall / 2 + 0.1, "(B, T, C)")
    x += width * 0.5 + 0.15
    arrow(x, middle, "c_proj")
    block(x + 1.1, middle + tall / 2, width, DATA, "result")
    note(x + 1.1 + width / 4, middle + tall / 2 + 0.1, "(B, T, C)")
    ax.set(xlim=(-0.3, x + 1.4 + width * 0.5), ylim=(lifts[-1] - tall / 2 - 0.2, lifts[0] + tall / 2 + 0.6), aspect="equal")
    ax.set_axis_off()


def coloured_cells(ax, texts, groups, title):
    """Draw a table of short texts, each cell in the colour of its group, a number."""
    from matplotlib.patches import Rectangle

    for (i, j), text in np.ndenumerate(texts):
        ax.add_patch(Rectangle((j, -i), 0.94, -0.94, facecolor=PALETTE[(0, 2, 3, 1)[groups[i, j] % 4]], alpha=0.35, linewidth=0))
        ax.text(j + 0.47, -i - 0.47, text, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.1, texts.shape[1] + 0.1), ylim=(-len(texts) - 0.1, 0.1), aspect="equal")
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()


def clock_hands(ax, angles, rows, columns):
    """Draw a hand on a clock for each angle of `angles` (R, T), in radians from the right; rows and columns have names."""
    ring = np.linspace(0, 2 * np.pi, 60)
    for (i, t), angle in np.ndenumerate(angles):
        ax.plot(t + 0.4 * np.cos(ring), -i + 0.4 * np.sin(ring), color="#cccccc", linewidth=0.8)
        ax.annotate("", (t + 0.42 * np.cos(angle), -i + 0.42 * np.sin(angle)), (t, -i),
                    arrowprops={"arrowstyle": "-|>", "color": PALETTE[i % len(PALETTE)], "linewidth": 1.8, "shrinkA": 0,
                                "shrinkB": 0})
    for i, name in enumerate(rows):
        ax.text(-0.65, -i, name, ha="right", va="center", fontsize=9)
    for t, name in enumerate(columns):
        ax.text(t, -len(rows) + 0.42, name, ha="center", va="top", fontsize=9)
    ax.set(xlim=(-3.0, len(columns) - 0.4), ylim=(-len(rows) + 0.1, 0.55), aspect="equal")
    ax.set_axis_off()


def norm_plane(axes, x, n, g, dx):
    """Draw layer norm of three numbers in the plane at right angles to (1, 1, 1): x (N, 3) and n on a circle; g, and dx.

    Left stands what layer norm does to the points, right the gradients: g as it arrives, and what is left of it.
    """
    across = np.array([[1, -1, 0] / np.sqrt(2), [1, 1, -2] / np.sqrt(6)])
    x, n, g, dx = (a @ across.T for a in (x, n, g, dx))
    ring = np.sqrt(3) * np.exp(1j * np.linspace(0, 2 * np.pi, 120))
    for ax in axes:
        ax.plot(ring.real, ring.imag, color=DATA, linewidth=1)
        ax.set(aspect="equal", xticks=[], yticks=[], xlim=(-4.2, 4.2), ylim=(-3.6, 3.6))
        ax.grid(False)
    for start, end in zip(x, n, strict=True):
        axes[0].plot(*zip(start, end, strict=True), color=DATA, linewidth=0.7, zorder=1)
    axes[0].scatter(*x.T, s=26, color=DATA, zorder=2, label="tokens")
    axes[0].scatter(*n.T, s=26, color=PREDICTION, zorder=3, label="normalised")
    axes[0].plot(0, 0, "+", color="black")
    axes[0].legend(loc="lower right", fontsize=8)
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    axes[1].plot([], [], color="#cccccc", linewidth=2, label="arrives")
    axes[1].plot([], [], color=GRADIENT, linewidth=2, label="passes")
    for point, before, after in zip(n, g, dx, strict=True):
        axes[1].annotate("", point + before, point, arrowprops=arrow | {"color": "#cccccc", "linewidth": 1.6})
        axes[1].annotate("", point + after, point, arrowprops=arrow | {"color": GRADIENT, "linewidth": 2.2})
    axes[1].scatter(*n.T, s=22, color=PREDICTION, zorder=3)
    axes[1].legend(loc="lower right", fontsize=8)


def residual_blocks(ax):
    """Draw a transformer block in both ways: norms on the branches (pre-norm), and norms on the stream (post-norm)."""
    from matplotlib.patches import FancyBboxPatch

    def box(x, y, text, colour):
        pale = 0.35 * np.array(matplotlib.colors.to_rgb(colour)) + 0.65
        ax.add_patch(FancyBboxPatch((x - 0.62, y - 0.2), 1.24, 0.4, boxstyle="round,pad=0.05", facecolor=pale, edgecolor=DATA,
                                    linewidth=0.8, zorder=3))
        ax.text(x, y, text, ha="center", va="center", fontsize=8.5, zorder=4)

    def line(points, colour, width, arrow=False):
        ax.plot(*np.transpose(points), color=colour, linewidth=width, zorder=1, solid_capstyle="round")
        if arrow:
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", points[-1], points[-2], arrowprops=arrow)

    def plus(x, y):
        ax.text(x, y, "+", ha="center", va="center", fontsize=12, zorder=4,
                bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "black", "linewidth": 1})

    def detour(x, end, y):
        return [(x, y), (x, y + 0.75), (end, y + 0.75), (end, y + 0.2)]

    branch = {"attention": PREDICTION, "feed-forward": PALETTE[2]}
    for top, title in ((1.1, "pre-norm"), (-0.9, "post-norm")):
        stream = top - 0.85
        ax.text(-0.35, stream + 1.2, title, ha="left", va="center", fontsize=10, weight="bold")
        line([(-0.3, stream), (10.6, stream)], PREDICTION, 3.5, arrow=True)
        for start, name in ((0.5, "attention"), (5.6, "feed-forward")):
            if title == "pre-norm":
                line(detour(start, start + 4.1, stream), DATA, 1.3, True)
                box(start + 1.2, stream + 0.75, "norm", GRADIENT)
                box(start + 2.9, stream + 0.75, name, branch[name])
                plus(start + 4.1, stream)
            else:
                line(detour(start, start + 2.6, stream), DATA, 1.3, True)
                box(start + 1.3, stream + 0.75, name, branch[name])
                plus(start + 2.6, stream)
                box(start + 3.75, stream, "norm", GRADIENT)
    ax.set(xlim=(-0.5, 10.8), ylim=(-2.1, 1.7))
    ax.set_axis_off()


# ---- chapter 07: texts, their pieces, and what a model thinks of each letter ----


def _letter_places(text, columns):
    """Break a text into rows of at most `columns` letters: the (row, column) of each, and the number of rows.

    A line's end stands at the end of its row; what follows begins the next one.
    """
    places, row, column = [], 0, 0
    for letter in text:
        if column == columns:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if letter == "\n" else (row, column + 1)
    return places, max((row for row, _ in places), default=0) + 1


def _letters(ax, text, columns, fontsize):
    """Write a text into bare axes, in cells of one width, the first row at the top; returns the cells' (row, column)."""
    places, rows = _letter_places(text, columns)
    for letter, (row, column) in zip(text, places, strict=True):
        ax.text(column + 0.5, row + 0.54, "\u21b5" if letter == "\n" else letter, ha="center", va="center",
                family="monospace", fontsize=fontsize, color=DATA if letter == "\n" else "black", in_layout=False)
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    ax.grid(False)
    ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    for side in ax.spines.values():
        side.set_visible(False)
    return places


def shaded_text(ax, text, values, *, columns=72, colour=ERROR, vmax=None, fontsize=9, mark=None):
    """Write a text, each letter on a ground as dark as its value, from 0 to `vmax` (the largest); NaN stays white.

    `mark` is the place of a letter to frame. Returns what a colour bar needs.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    paint = ScalarMappable(Normalize(0, np.nanmax(values) if vmax is None else vmax),
                           LinearSegmentedColormap.from_list("shades", ["#ffffff", colour]))
    for i, (row, column) in enumerate(_letters(ax, text, columns, fontsize)):
        if np.isfinite(values[i]):
            ax.add_patch(Rectangle((column, row), 1, 1, facecolor=paint.to_rgba(values[i]), linewidth=0, zorder=0))
        if i == mark:
            ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=1.2))
    return paint


def token_strip(ax, pieces, *, columns=72, fontsize=9):
    """Write a text that is cut into pieces, each on a ground of its own, neighbours in different colours."""
    from matplotlib.patches import Rectangle

    grounds = ["#CFE4F2", "#F8E2B8", "#CDEBDF", "#F2DCE8"]
    places = _letters(ax, "".join(pieces), columns, fontsize)
    owners = [i for i, piece in enumerate(pieces) for _ in piece]
    for place, (row, column) in enumerate(places):
        ax.add_patch(Rectangle((column, row + 0.06), 1, 0.88, facecolor=grounds[owners[place] % 4], linewidth=0, zorder=0))
        if place == 0 or owners[place] != owners[place - 1]:
            ax.plot([column, column], [row + 0.06, row + 0.94], color=DATA, linewidth=0.8)


def attention_grid(axes, maps):
    """Attention maps (blocks, heads, T, T), a row of axes for each block; square roots, so that weak weights are seen."""
    for block, row in enumerate(axes):
        for head, ax in enumerate(row):
            attention_table(ax, np.sqrt(maps[block, head]))
            ax.set_title(f"block {block + 1}, head {head + 1}", fontsize=8)


def letter_map(ax, points, names, groups):
    """Write names at their points (N, 2) on the colour of their group; `groups` is a table from a group's name to its members."""
    for (group, members), colour in zip(groups.items(), PALETTE, strict=False):
        chosen = [i for i, name in enumerate(names) if name in members]
        ax.scatter(*points[chosen].T, s=150, color=colour, alpha=0.35, linewidths=0, label=group)
        for i in chosen:
            ax.text(*points[i], shown_letter(names[i]), ha="center", va="center", fontsize=9, color="black")
    ax.legend(fontsize=8)


def pen_drawing(strokes, size=280, width=18):
    """A drawing in ink on white paper, bytes (size, size, 3): each stroke a list of points (x, y) from 0 to 1, rounded off."""
    places = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5).reshape(-1, 2)
    nearest = np.full(len(places), np.inf)
    for stroke in strokes:
        points = np.asarray(stroke, float) * size
        for _ in range(3):  # Chaikin's rule: cut every corner off
            cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1)
            points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
        for a, b in pairwise(points):
            along = np.clip((places - a) @ (b - a) / max((b - a) @ (b - a), 1e-9), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(places - a - along[:, None] * (b - a), axis=1))
    ink = np.clip(width / 2 - nearest + 0.5, 0, 1).reshape(size, size, 1)
    return np.round(255 * (1 - ink) + 30 * ink).astype(np.uint8).repeat(3, 2)


def byte_grid(ax, content, parts, *, columns=16):
    """Draw every byte of a file as a cell, letters as letters, others as hexadecimal numbers.

    `parts` is a list of (name, number of bytes, colour) in the order of the file; a colour may be None.
    """
    from matplotlib.patches import Patch, Rectangle

    ends = np.cumsum([count for _, count, _ in parts])
    for i, byte in enumerate(content):
        row, column = divmod(i, columns)
        colour = parts[int(np.searchsorted(ends, i, side="right"))][2]
        ax.add_patch(Rectangle((column, row), 1, 1, facecolor=colour or "white", alpha=0.35, linewidth=0))
        letter = chr(byte) if 33 <= byte < 127 else f"{byte:02x}"
        ax.text(column + 0.5, row + 0.52, letter, ha="center", va="center", fontsize=7.5 if len(letter) == 2 else 9,
                family="monospace", color="black" if len(letter) == 1 else "#555555")
    rows = -(-len(content) // columns)
    ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=np.arange(rows) + 0.5, yticklabels=columns * np.arange(rows))
    ax.tick_params(length=0)
    ax.set_ylabel("first byte of the row")
    ax.grid(False)
    patches = [Patch(facecolor=colour, alpha=0.35, label=f"{name} ({count} bytes)")
               for name, count, colour in parts if colour]
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=len(patches), fontsize=8)


def operator_graph(ax, nodes, edges, *, wrap=None):
    """Draw a graph of operations from left to right: each node (operation, note), edges as pairs of their indices.

    Every node stands after those it reads. With `wrap` the columns are laid out in lines of that many.
    """
    from matplotlib.patches import FancyBboxPatch

    places, routes = layered_layout(len(nodes), edges)
    columns = int(places[:, 0].max()) + 1
    wrap = wrap or columns
    tall = np.ptp(np.concatenate([np.array(route)[:, 1] for route in routes])) + 1.6
    middle = np.mean([route[0][1] for route in routes])

    def at(point):
        line, column = divmod(point[0], wrap)
        return np.array([column * 1.5, -(point[1] - middle) * 0.9 - line * tall])

    right = np.array([1.0, 0.0])
    for route in routes:
        for i, (a, b) in enumerate(pairwise(route)):
            leave, arrive = 0.6 * (i == 0), 0.6 * (i == len(route) - 2)  # what lies between is an invisible node
            start, end = at(a) + leave * right, at(b) - arrive * right
            if end[0] < start[0]:  # the line breaks: leave at its end, come in at the beginning of the next
                _arrow(ax, start, start + 0.4 * right, DATA, width=1.1)
                _arrow(ax, end - 0.4 * right, end, DATA, width=1.1)
            else:
                _arrow(ax, start, end, DATA, width=1.1, style="-|>" if arrive else "-")
    for (operation, note), place in zip(nodes, places, strict=True):
        x, y = at(place)
        ax.add_patch(FancyBboxPatch((x - 0.58, y - 0.26), 1.16, 0.52, boxstyle="round,pad=0.02", facecolor="#DCEAF5",
                                    edgecolor=PREDICTION, linewidth=0.8))
        ax.text(x, y + (0.09 if note else 0), operation, ha="center", va="center", fontsize=min(7.2, 68 / len(operation)))
        if note:
            ax.text(x, y - 0.14, note, ha="center", va="center", fontsize=5.8, color="#555555")
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_axis_off()


def caught_table(ax, bugs, tests, caught):
    """Draw which test catches which bug: `caught` (bugs, tests), booleans; blue where it does."""
    caught = np.asarray(caught)
    ax.imshow(np.where(caught, 1.0, 0.0), cmap=ListedColormap(["#f2f2f2", "#9CC3E0"]), vmin=0, vmax=1, aspect="auto")
    for (i, j), found in np.ndenumerate(caught):
        ax.text(j, i, "caught" if found else "missed", ha="center", va="center", fontsize=8.5,
                color="black" if found else ERROR, fontweight="normal" if found else "bold")
    ax.set(xticks=range(len(tests)), xticklabels=tests, yticks=range(len(bugs)), yticklabels=bugs)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
