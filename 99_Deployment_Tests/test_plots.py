"""The figures of `shared.plots`: they show what they are given, in the course's colours, and can be read aloud."""
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from shared import plots
from shared.tensor_mlp import History

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def ax():
    """Axes of a figure that is closed again."""
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


def test_loss_curve_draws_both_curves_in_their_colours(ax):
    plots.loss_curve(ax, [3.0, 2.0, 1.0], ([0, 2], [3.5, 2.5]))
    training, validation = ax.get_lines()
    assert training.get_ydata().tolist() == [3, 2, 1] and validation.get_xdata().tolist() == [0, 2]
    assert (training.get_color(), validation.get_color()) == (plots.PREDICTION, plots.ERROR)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]


def test_the_ticks_of_a_training_run_are_whole_epochs():
    """Without the rule, four epochs get ticks at 1.5, 2.5 and 3.5."""
    history = History()
    history.epochs = [{"epoch": i, "train_loss": 1 / i, "val_loss": 2 / i, "val_accuracy": 1 - 1 / i} for i in range(1, 5)]
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3))
        plots.training_run(axes, history)
        for ax in axes:
            assert len(ax.get_xticks()) >= 3 and not np.any(ax.get_xticks() % 1)
        plots.loss_curve(axes[0], [3.0, 2.0, 1.0])
        assert not np.any(axes[0].get_xticks() % 1)
        plt.close(figure)


def test_a_few_points_are_drawn_larger(ax):
    xor = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    for points in (xor, np.tile(xor, (3, 1))):
        plots.decision_boundary(ax, points, points[:, 0] > points[:, 1], score=lambda p: p[:, 0] - p[:, 1])
    few, many = ax.collections[2], ax.collections[-1]
    assert few.get_sizes()[0] > 4 * many.get_sizes()[0]


def test_decision_boundary_lies_where_the_score_is_zero(ax):
    x = np.array([[-1.0, 0.0], [2.0, 1.0], [-2.0, 1.0]])
    plots.decision_boundary(ax, x, np.array([0, 1, 0]), score=lambda p: p[:, 0] - 0.5, margin=0.25)
    zero, margin = (collection for collection in ax.collections if hasattr(collection, "levels"))
    assert np.allclose(zero.get_paths()[0].vertices[:, 0], 0.5)
    assert sorted({round(float(v), 3) for path in margin.get_paths() for v in path.vertices[:, 0]}) == [0.25, 0.75]


def test_decision_boundary_colours_the_predicted_class(ax):
    x = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    plots.decision_boundary(ax, x, np.array([5, 7, 9]), lambda p: np.where(p[:, 0] > 1, 7, np.where(p[:, 1] > 1, 9, 5)))
    regions = ax.collections[0]
    assert set(np.unique(regions.get_array())) == {0, 1, 2}
    assert [to_hex(c.get_facecolor()[0]).upper() for c in ax.collections[1:]] == [c.upper() for c in plots.PALETTE[:3]]


def test_descent_path_marks_its_end(ax):
    path = np.array([[2.0, 1.0], [1.0, 0.5], [0.1, 0.2]])
    plots.descent_path(ax, lambda p: (p**2).sum(1), path)
    walked, end = ax.get_lines()
    assert np.allclose(walked.get_xydata(), path) and np.allclose(end.get_xydata(), path[-1:])


def test_residuals_are_truth_minus_prediction(ax):
    plots.residuals(ax, np.array([3.0, 5.0]), np.array([1.0, 6.0]), unit="$")
    assert ax.collections[0].get_offsets().tolist() == [[1, 2], [6, -1]]
    assert "($)" in ax.get_xlabel() and "($)" in ax.get_ylabel()


def test_confusion_matrix_colours_mistakes_only(ax):
    matrix = np.array([[50, 2, 0], [1, 40, 3], [0, 7, 30]])
    plots.confusion_matrix(ax, matrix, ["a", "b", "c"])
    assert ax.images[0].get_array().tolist() == [[0, 2, 0], [1, 0, 3], [0, 7, 0]]
    assert [text.get_text() for text in ax.texts] == [str(n) for n in matrix.ravel()]


def test_worst_mistakes_are_the_surest_first():
    figure, axes = plt.subplots(1, 3)
    images = np.arange(5)[:, None, None] * np.ones((5, 4, 4))
    plots.worst_mistakes(axes, images, [0, 1, 2, 3, 4], [0, 2, 3, 3, 1], [0.99, 0.6, 0.9, 0.95, 0.7])
    assert [ax.images[0].get_array()[0, 0] for ax in axes] == [2, 4, 1]
    assert axes[0].get_title() == "2 read as 3\n90% sure"
    plt.close(figure)


def test_pictures_leave_further_axes_empty():
    figure, axes = plt.subplots(1, 3)
    plots.pictures(axes, np.zeros((2, 4, 4)), ["first", "second"])
    assert [len(ax.images) for ax in axes] == [1, 1, 0] and not any(ax.axison for ax in axes)
    plt.close(figure)


def test_a_figure_is_read_aloud_by_its_description_or_its_titles(ax):
    ax.plot([1, 2])
    ax.set(title="The loss\nfalls", xlabel="step", ylabel="loss")
    picture, metadata = plots.png(ax.figure)
    assert picture.startswith(b"\x89PNG") and metadata == {"alt": "The loss falls. loss against step"}
    plots.describe(ax.figure, "A falling line")
    assert plots.png(ax.figure)[1] == {"alt": "A falling line"}


def test_an_empty_or_mute_figure_is_refused(ax):
    ax.set_title("Nothing")
    with pytest.raises(ValueError, match="empty"):
        plots.png(ax.figure)
    ax.plot([1, 2])
    ax.set_title("")
    with pytest.raises(ValueError, match="no title"):
        plots.png(ax.figure)


def test_the_size_of_a_picture_is_that_of_the_figure(ax):
    from io import BytesIO

    from PIL import Image

    ax.plot([1, 2])
    ax.set_title("x")
    width, height = ax.figure.get_size_inches() * plots.STYLE["figure.dpi"]
    ax.figure.set_dpi(plots.STYLE["figure.dpi"])
    assert Image.open(BytesIO(plots.png(ax.figure)[0])).size == (round(width), round(height))


def test_the_palette_has_distinct_colours_with_their_roles():
    assert len(set(plots.PALETTE)) == 8 and plots.PREDICTION in plots.PALETTE and plots.ERROR in plots.PALETTE
    middle = plots.DIVERGING(0.5)
    assert min(middle[:3]) > 0.99, "zero is white"
