"""`calibox reproduce`: the papers' comparisons as a plan of trainings, their analysis and a report."""
