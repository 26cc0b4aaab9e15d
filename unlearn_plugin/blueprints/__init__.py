"""What models are built from: one file per form in which classifiers are kept."""
