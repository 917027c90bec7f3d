"""OCTDL at the full recipe, five folds: four losses with two seeds, and a ResNet-18 with one.

wlsrl prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl_full --output=runs/ablation-octdl_full --data_dir=DATA

The losses are the two that were best on validation in octdl.py, cross-entropy and plain label
smoothing; everything else is as in configs/oct.py. The ResNet-18 has the learning rate that was
best for it on validation (experiments/README.md). It takes an hour a fold on 2 cores; all of
these ran on a GPU.
"""

from ablate.axes import BASELINES, NETWORKS, WLSRL
from ablate.grid import Grid, cells, folds, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    ours = {"wlsrl-target": WLSRL["wlsrl-target"]}
    others = {name: BASELINES[name] for name in ("weighted-ce", "ls", "ce")}
    each = {"fold": folds(5), "seed": seeds(2)}
    once = {"fold": folds(5), "seed": seeds(1)}
    return Grid(
        name="octdl_full",
        config="configs/oct.py:octdl",
        description=(
            "OCTDL, out-of-fold predictions of 5 folds by patient, pooled; 128x256 pixels, "
            "100 epochs from scratch. The dual-stream network has 0.56 M parameters, the "
            "ResNet-18 11.2 M. Of seed 0 10 runs shared the card, of the others 13."
        ),
        common={},
        cells=(
            *cells(network={"dual": NETWORKS["dual"]}, loss={**ours, **others}, **each),
            *cells(network={"resnet18": NETWORKS["resnet18"]}, loss=ours, **once),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"network": "dual", "loss": "wlsrl-target"},
        pooled=True,
        ensemble=True,
    )
