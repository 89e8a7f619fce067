"""Recognises the languages of files by the data and rules of GitHub Linguist.

`data/VERSION` is the version of both. The rules that are not data are ported from Ruby, under the licence in `data/LICENSE`, too.
"""
