"""From predictions to evidence: metrics, intervals, comparisons."""
