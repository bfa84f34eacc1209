"""Tasks and strategies that live outside the project, as a user would write them."""
