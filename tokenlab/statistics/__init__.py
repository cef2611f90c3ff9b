"""Statistics of right and wrong answers: pure functions, checked against scipy and published tables."""
