"""Unlearners: one method, one file; the file's name is the method's name. An underscore marks parts of methods."""
