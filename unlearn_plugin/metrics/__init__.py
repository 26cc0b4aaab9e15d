"""What is measured about a model: one metric, one file."""
