"""What things cost: suites of paired measurements in one run, as ratios with their spread (`longspan bench`)."""
