"""Images a second of the forward pass against PyTorch and plain ``lax`` convolutions.

python experiments/benchmarks/inference.py --json=inference.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from train_step import main

if __name__ == "__main__":
    main("inference")
