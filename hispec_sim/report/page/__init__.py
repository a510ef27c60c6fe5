"""One self-contained HTML page of a run or a sweep: works offline, sorts, zooms, hovers and prints on A4."""
