"""One self-contained HTML page of a run, a sweep or a validation: offline, it sorts, zooms, hovers and prints on A4."""
