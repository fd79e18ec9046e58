"""The names of the layouts, for the command line, which lists them before it imports what reads them."""

from __future__ import annotations

LAYOUTS = (
    "auto",
    "kg-bert",
    "simkgc",
    "simkgc-json",
    "wikidata5m",
    "wikidata5m-transductive",
    "wikidata5m-inductive",
    "tsv",
    "csv",
    "parquet",
    "openke",
    "libkge",
)
