r"""OCTDL: smoothing, class weights, variants of WLSRL, and one task instead of two.

    wlsrl prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
    python experiments/ablation.py --grid=octdl_details --output=runs/ablation-octdl_details \
      --data_dir=DATA

Every row is compared with cross-entropy on both tasks; size and schedule are those of octdl.py.
"""

from ablate.axes import BASELINES, OCTDL_REDUCED, WLSRL
from ablate.grid import Axis, Grid, cells, seeds

SMOOTHING: Axis = {f"smoothing {e}": {"loss.smoothing": e} for e in (0.05, 0.2, 0.3)}
WEIGHTS: Axis = {
    f"weights {name}": {"loss.class_weights": name} for name in ("sqrt_inverse", "effective_number")
}
ALONE: Axis = {
    "TO1 alone": {"task_weights.TO2": 0.0},
    "TO2 alone": {"task_weights.TO1": 0.0},
}
NOTHING: Axis = {"default": {}}


def get_grid() -> Grid:
    """Returns the grid."""
    fold, target = {0: {"data.fold": 0}}, {"wlsrl-target": WLSRL["wlsrl-target"]}
    others = {name: fields for name, fields in WLSRL.items() if name not in target}
    ce, ls = ({name: BASELINES[name]} for name in ("ce", "ls"))
    parts = (
        (ce, {**NOTHING, **ALONE}),
        (ls, SMOOTHING),
        (target, {**NOTHING, **ALONE, **SMOOTHING, **WEIGHTS}),
        (others, NOTHING),
    )
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    return Grid(
        name="octdl_details",
        config="configs/oct.py:octdl",
        description=(
            "OCTDL, fold 0 of 5 by patient; 96x192 pixels instead of "
            "128x256, 40 epochs. Default: both tasks, smoothing 0.1, inverse weights."
        ),
        common=OCTDL_REDUCED,
        cells=tuple(
            cell
            for losses, details in parts
            for cell in cells(loss=losses, detail=details, fold=fold, seed=seeds(3))
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"loss": "ce", "detail": "default"},
    )
