"""Judged runs, studies and data sets as pages, tables and pictures; reads what is on disk and judges nothing."""
