"""What chapter 00's slowest methods cost on the embedded MNIST, beside scikit-learn, and what an import costs.

``python 99_Deployment_Tests/benchmarks/traditional_ml.py`` prints seconds of this machine and ratios to scikit-learn in
the same run: below 1 ours is faster.
"""
import subprocess
import sys
from time import perf_counter

from sklearn import neighbors, tree

from shared import CHAPTER_FOLDERS, datasets
from shared.traditional_ml import DecisionTreeClassifier, KNeighborsClassifier


def seconds(work):
    """How long one call takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def import_seconds(name):
    """What importing a module of the course costs beyond NumPy: the median of five fresh processes."""
    code = f"import time, numpy; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return sorted(float(run.stdout) for run in runs)[2]


def main():
    """Print the table."""
    digits = datasets.mnist_embedded()
    x_train, x_test = (images.reshape(-1, 784) / 255 for images in (digits.x_train, digits.x_test))
    contestants = {
        "3 nearest neighbours, 10,000 x 10,000": (KNeighborsClassifier(3), neighbors.KNeighborsClassifier(3)),
        "decision tree, fit": (DecisionTreeClassifier(), tree.DecisionTreeClassifier(random_state=0)),
    }
    for name, pair in contestants.items():
        if "fit" in name:
            times = [seconds(lambda model=model: model.fit(x_train, digits.y_train)) for model in pair]
        else:
            times = [seconds(lambda model=model: model.fit(x_train, digits.y_train).predict(x_test)) for model in pair]
        print(f"{name:40} {times[0]:6.2f} s, scikit-learn {times[1]:6.2f} s, ratio {times[0] / times[1]:.2f}")
    modules = [path.stem for folder in CHAPTER_FOLDERS for path in folder.glob("*.ipynb") if path.stem != "solutions"]
    for name in ["datasets", "checks", "export", "plots", *modules]:
        print(f"import shared.{name:33} {import_seconds(f'shared.{name}'):6.3f} s")


if __name__ == "__main__":
    main()
