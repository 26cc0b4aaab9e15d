"""The full audit: an unlearned model judged against many that were retrained, and many that were unlearned likewise."""
