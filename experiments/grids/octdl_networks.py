"""OCTDL: the dual-stream network against a ResNet-18 of twenty times its parameters, five folds.

python -m wlsrl_jax.data.prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl_networks --output=runs/ablation-octdl_networks \
  --data_dir=DATA

Networks differ between cells, and the learning rate: each has the one that was best for it on
validation (experiments/README.md). A ResNet-18 takes an hour a fold on 2 cores; these ran on a GPU.
"""

from ablate.axes import NETWORKS, WLSRL
from ablate.grid import Grid, cells, folds, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    return Grid(
        name="octdl_networks",
        config="configs/oct.py:octdl",
        description=(
            "OCTDL, out-of-fold predictions of 5 folds by patient, pooled; 128x256 pixels, "
            "100 epochs from scratch. The dual-stream network has 0.56 M parameters, the "
            "ResNet-18 11.2 M."
        ),
        common={},
        cells=cells(
            network=NETWORKS,
            loss={"wlsrl-target": WLSRL["wlsrl-target"]},
            fold=folds(5),
            seed=seeds(1),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"network": "dual"},
        pooled=True,
    )
