"""What things cost: paired measurements in one run, as ratios with their spread. `make bench` runs them all."""
