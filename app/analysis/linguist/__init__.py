"""Recognises the languages of files by the data and rules of GitHub Linguist. `data/VERSION` is the version of the data."""
