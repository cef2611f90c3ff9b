"""What is measured: records, accuracy with clustered intervals, FLOPs, and the summary of a run."""
