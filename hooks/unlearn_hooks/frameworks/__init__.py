"""Drop-ins for training frameworks; each module needs its own framework and nothing else does."""
