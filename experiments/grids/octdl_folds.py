"""OCTDL at the full recipe: five folds, each opened once.

python -m wlsrl_jax.data.prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl_folds --output=runs/ablation-octdl_folds --data_dir=DATA

The two losses that were best on validation in octdl.py, and cross-entropy. Losses differ between
cells and nothing else does: data, network, epochs, optimizer and augmentation are those of
configs/oct.py.
"""

from ablate.axes import BASELINES, NETWORKS, WLSRL
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
            loss={
                "wlsrl-target": WLSRL["wlsrl-target"],
                **{name: BASELINES[name] for name in ("weighted-ce", "ce")},
            },
            fold=folds(5),
            seed=seeds(1),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"network": "dual", "loss": "wlsrl-target"},
        pooled=True,
    )
