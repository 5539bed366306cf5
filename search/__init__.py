"""Where to look next: mutation, population, strategies, hall of fame, ledger, the run."""
