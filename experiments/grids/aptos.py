"""APTOS 2019, the sample with grades 2, 3 and 4 alone: losses for ordered classes among others.

    wlsrl prepare --dataset=aptos2019 --source=DIR --data_dir=DATA \
      --allow_missing_classes
    python experiments/ablation.py --grid=aptos --output=runs/ablation-aptos --data_dir=DATA

TF1 takes no part: it would have one class.
"""

from ablate.axes import FUNDUS_REDUCED, MAIN, ORDINAL
from ablate.grid import Grid, cells, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    return Grid(
        name="aptos",
        config="configs/fundus.py:aptos2019",
        description=(
            "APTOS 2019, 760 images of grades 2, 3 and 4, TF2 alone (TF1 would have one class); "
            "96x96 pixels instead of 128x128, preset small instead of medium, 20 epochs of 30. "
            "The set names no patients: intervals are over images."
        ),
        common={
            "allow_missing_classes": True,
            "task_weights.TF1": 0.0,
            **FUNDUS_REDUCED,
        },
        cells=cells(loss={**MAIN, **ORDINAL}, seed=seeds(3)),
        metrics={"TF2": ("balanced_accuracy", "macro_f1", "auroc", "qwk", "ece")},
        baseline={"loss": "ce"},
    )
