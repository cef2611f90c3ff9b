"""The embedded default: a rendered video world, its questions, and a tiny model trained to answer them."""
