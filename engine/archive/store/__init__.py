"""Where objects lie: what a store must do, and a directory and S3 that do it.

The only importer of `minio`. Knows no Parquet.
"""
