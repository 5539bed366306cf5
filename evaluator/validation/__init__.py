"""Statistics of validation: speedups with intervals, tests, profiles over tasks, agreement of rankings."""
