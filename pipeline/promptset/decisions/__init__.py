"""What a row leaves open, decided: over what holds for all rows, over what the deployment says."""
