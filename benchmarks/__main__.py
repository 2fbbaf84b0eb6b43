"""``python -m benchmarks``: the accuracy of the default preset beside interpolation, at 60 seconds."""

from benchmarks.accuracy import main

main(["--methods", "interpolation,propagation,default", "--budgets", "60", "--slices", "5"])
