"""The report of a run as one HTML page, `report.html`, made from the run's files alone.

A training, an evaluation, a comparison and a sweep write it at their end (`write.py`), and
`vqr1 report FOLDER` writes it again for any that has finished, also of an earlier version: what a
folder lacks is not on its page. The page holds everything that it shows, so it can be copied alone,
and its Content-Security-Policy forbids it to load anything.

    files.py      reads result files into records
    charts.py     Vega-Lite specifications of the charts
    sections.py   what all pages are put together from
    blocks.py     the parts that pages share
    pages.py      the page of each kind of run; sweep_page.py that of a sweep
    library.py    the JavaScript that draws the charts
    template.html, page.css, page.js

Not here: computing anything; metrics, intervals and tables come from the files.
"""
