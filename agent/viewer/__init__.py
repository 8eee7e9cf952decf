"""Pages on which runs, rounds, searches and their trees can be looked at."""
