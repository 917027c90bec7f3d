"""OCTDL at the full recipe on five folds, each opened once: what configs/oct.py reaches.

wlsrl prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl_folds --output=runs/ablation-octdl_folds --data_dir=DATA

Data, network, loss, epochs, optimizer and augmentation are those of the config. Other losses and
networks, on one machine: octdl_full.py.
"""

from ablate.axes import NETWORKS, WLSRL
from ablate.grid import Grid, cells, folds, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    return Grid(
        name="octdl_folds",
        config="configs/oct.py:octdl",
        description=(
            "OCTDL, out-of-fold predictions of 5 folds by patient, pooled; 128x256 pixels, "
            "100 epochs from scratch."
        ),
        common={},
        cells=cells(
            network={"dual": NETWORKS["dual"]},
            loss={"wlsrl-target": WLSRL["wlsrl-target"]},
            fold=folds(5),
            seed=seeds(1),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"network": "dual", "loss": "wlsrl-target"},
        pooled=True,
    )
