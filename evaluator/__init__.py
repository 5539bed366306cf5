"""How good a program is: training, hurdles, fitness, AdamW curves, tuning, statistics, executors."""
