"""Jobs on a Dask cluster: all that imports `distributed`, within the functions that need it."""
