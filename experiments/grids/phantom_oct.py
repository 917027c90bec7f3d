"""Rehearsal: eight losses, three streams and three seeds on drawn OCT images.

python experiments/ablation.py --grid=phantom_oct --output=runs/ablation-phantom_oct

A rehearsal, no evidence.
"""

from ablate.axes import BASELINES, STREAMS, WLSRL
from ablate.grid import Grid, cells, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    return Grid(
        name="phantom_oct",
        config="configs/oct.py:phantom",
        description=(
            "Drawn OCT images in the class proportions of OCT2017 (drusen 8%, CNV 34%), 32x32 "
            "pixels, 640 to train on and 400 to test on; preset tiny, 12 epochs."
        ),
        common={
            "data.height": 32,
            "data.width": 32,
            "data.phantom.train": 640,
            "data.phantom.validation": 200,
            "data.phantom.test": 400,
            "model.preset": "tiny",
            "num_epochs": 12.0,
            "optimizer.learning_rate": 0.01,
            "eval.every_epochs": 3.0,
        },
        cells=cells(loss={**BASELINES, **WLSRL}, streams=STREAMS, seed=seeds(3)),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"loss": "ce"},
    )
