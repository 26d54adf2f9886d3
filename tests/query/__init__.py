"""The query tier against real DuckDB, real Parquet files and stores in other processes."""
