r"""OCTDL: two streams, each alone, and each alone with the parameters and FLOPs of both.

wlsrl prepare --dataset=octdl --source=DIR --data_dir=DATA --folds=5
python experiments/ablation.py --grid=octdl_streams --output=runs/ablation-octdl_streams \
  --data_dir=DATA

Nine of its cells are cells of octdl.py too: copy those records into OUTPUT/records to save time.
"""

from ablate.axes import EQUAL_STREAMS, OCTDL_REDUCED, STREAMS, WLSRL
from ablate.grid import Grid, cells, seeds


def get_grid() -> Grid:
    """Returns the grid."""
    metrics = ("balanced_accuracy", "macro_f1", "auroc", "ece")
    return Grid(
        name="octdl_streams",
        config="configs/oct.py:octdl",
        description=(
            "OCTDL, fold 0 of 5 by patient; 96x192 pixels instead of 128x256, 40 epochs. Wider: as "
            "many parameters as both streams together, and FLOPs, within 4%."
        ),
        common=OCTDL_REDUCED,
        cells=cells(
            loss={"wlsrl-target": WLSRL["wlsrl-target"]},
            streams={**STREAMS, **EQUAL_STREAMS},
            fold={0: {"data.fold": 0}},
            seed=seeds(3),
        ),
        metrics={"TO1": metrics, "TO2": metrics},
        baseline={"streams": "dual"},
    )
