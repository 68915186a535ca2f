"""`calibox calibrate`: ranking, score map and thresholds chosen on one half of the data, and told of the other."""
