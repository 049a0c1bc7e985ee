"""A file for each page: reads, has `view` make of it what is shown, fills a template.

A page is a module of this package with `routes(site)`, which gives its routes; see `app.py`.
"""
