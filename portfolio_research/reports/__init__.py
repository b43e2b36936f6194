"""Scheduled reports: a notebook run by papermill, turned into one HTML file that opens anywhere."""
