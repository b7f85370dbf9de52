"""What a person reads at the end: the run's report, the sweep's table, the figures. Reads files."""
