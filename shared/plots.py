"""One look for every figure of the course, and the figures that several chapters draw.

Colours can be told apart by colour-blind readers (Okabe and Ito, "Color Universal Design", 2008) and have fixed roles:
data grey, prediction blue, gradient orange, error red. A figure's title states what it shows.
"""

import io

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
    "confusion_matrix",
    "decision_boundary",
    "describe",
    "descent_path",
    "loss_curve",
    "pictures",
    "residuals",
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


def descent_path(ax, loss, path, *, levels=24, margin=0.3, label=None, colour=GRADIENT, log=True):
    """Draw the path (T, 2) of a descent over the contours of `loss`, which maps (M, 2) points to M losses."""
    path = np.asarray(path)
    first, second, grid = plane_grid(path, margin)
    values = np.asarray(loss(grid)).reshape(len(second), len(first))
    if log:  # equal steps of the logarithm show the valley's floor as clearly as its walls
        values = np.log10(values - values.min() + 1e-3 * np.ptp(values))
    ax.contour(first, second, values, levels=levels, cmap=SEQUENTIAL, linewidths=0.8)
    ax.plot(*path.T, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    ax.plot(*path[-1], marker="*", markersize=13, color=ERROR, markeredgecolor="white")


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
