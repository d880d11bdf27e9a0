"""What answers cost: prices, and the sums of each caller."""
