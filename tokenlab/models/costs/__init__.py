"""What a model costs: FLOPs of its parts, prices of traces, and of pipelines that were never run."""
