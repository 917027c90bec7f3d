"""What a reviewer asks for: intervals, curves, operating points, subgroups, comparisons."""
