"""What configs may say: YAML read strictly, and arguments checked against the classes that take them."""
