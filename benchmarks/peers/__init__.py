"""Our retrieval tasks beside those of RULER: its own generators and scorer, run from a copy of its repository."""
