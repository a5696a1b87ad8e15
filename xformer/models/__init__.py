"""The families as thin compositions of `xformer.nn`."""
