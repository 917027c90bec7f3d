"""EyePACS, a sample too small to learn from: whether the losses run and what they give.

wlsrl prepare --dataset=eyepacs --source=DIR --data_dir=DATA
python experiments/ablation.py --grid=eyepacs --output=runs/ablation-eyepacs --data_dir=DATA

Read the intervals before the means.
"""

from ablate.axes import FUNDUS_REDUCED, MAIN, ORDINAL
from ablate.grid import Grid, cells, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    return Grid(
        name="eyepacs",
        config="configs/fundus.py:eyepacs",
        description=(
            "EyePACS, 894 of 35,126 images, two eyes a patient; 96x96 pixels instead of 128x128, "
            "preset small instead of medium, 20 epochs of 30. One seed: variation between seeds "
            "is not in the intervals."
        ),
        common=FUNDUS_REDUCED,
        cells=cells(loss={**MAIN, **ORDINAL}, seed=seeds(1)),
        metrics={
            "TF1": ("balanced_accuracy", "macro_f1", "auroc", "ece"),
            "TF2": ("balanced_accuracy", "macro_f1", "auroc", "qwk", "ece"),
        },
        baseline={"loss": "ce"},
    )
