"""Inside the LLM: tokens go between its layers, and decode steps look at a part of the cache."""
