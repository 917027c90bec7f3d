"""OCTDL: the losses on two streams, and two of them on each stream alone.

wlsrl prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl --output=runs/ablation-octdl --data_dir=DATA

Only the losses differ between cells of a stream, and only the streams between cells of a loss.
"""

from ablate.axes import BASELINES, MAIN, OCTDL_REDUCED, STREAMS, WLSRL
from ablate.grid import Grid, cells, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    both = {"dual": STREAMS["dual"]}
    alone = {k: STREAMS[k] for k in ("separable", "standard")}
    few = {"ce": BASELINES["ce"], "wlsrl-target": WLSRL["wlsrl-target"]}
    fold = {0: {"data.fold": 0}}
    return Grid(
        name="octdl",
        config="configs/oct.py:octdl",
        description=("OCTDL, fold 0 of 5 by patient; 96x192 pixels instead of 128x256, 40 epochs."),
        common=OCTDL_REDUCED,
        cells=(
            *cells(loss=MAIN, streams=both, fold=fold, seed=seeds(3)),
            *cells(loss=few, streams=alone, fold=fold, seed=seeds(3)),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"loss": "ce"},
        ensemble=True,
    )
